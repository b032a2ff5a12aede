"""A report's checkpoint has the step of the moment at which the program reported it."""

import enum
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

REPORTS = "deepspeed_trainer.hooks.reports"
UTILS = "ray.train.v2._internal.execution.train_fn_utils"


class Mode(enum.Enum):
    """Ray's, by the same names."""

    SYNC = "SYNC"
    ASYNC = "ASYNC"
    NO_UPLOAD = "NO_UPLOAD"


class RayTrain:
    """The parts of Ray Train that a report goes through: an asynchronous upload ends later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, storage: Path) -> None:
        self.waiting: list[Any] = []
        self.deletes: list[Any] = []
        ray = self

        class Distributed:
            def report(
                self, _metrics: Any, checkpoint: Any, name: str, mode: Mode, delete: Any, *rest: Any
            ) -> None:
                ray.deletes.append(delete)
                if mode is Mode.SYNC:
                    rest[0](checkpoint, name)
                else:
                    ray.waiting.append(lambda: rest[0](checkpoint, name))

        class LocalFileSystem:
            """What a volume is to pyarrow."""

        context = SimpleNamespace(
            storage_filesystem=LocalFileSystem(),
            persist_current_checkpoint=lambda _, name: SimpleNamespace(path=str(storage / name)),
        )
        parts: dict[str, dict[str, Any]] = {
            "pyarrow.fs": {"LocalFileSystem": LocalFileSystem},
            "ray.train": {
                "Checkpoint": object,
                "CheckpointUploadMode": Mode,
                "UserCallback": object,
            },
            "ray.train.v2._internal.exceptions": {"WorkerHealthCheckFailedError": OSError},
            "ray.train.v2._internal.execution.context": {
                "get_train_context": lambda: SimpleNamespace(storage_context=context)
            },
            UTILS: {"DistributedTrainFnUtils": Distributed},
            "typing_extensions": {"override": lambda method: method},
            "deepspeed_trainer.board.lookup": {"find_board": lambda: None},
        }
        for name, values in parts.items():
            for end in range(1, name.count(".") + 2):
                above = ".".join(name.split(".")[:end])
                if not above.startswith("deepspeed_trainer") and above not in parts:
                    monkeypatch.setitem(sys.modules, above, ModuleType(above))
            module = ModuleType(name)
            vars(module).update(values)
            monkeypatch.setitem(sys.modules, name, module)
        execution = sys.modules["ray.train.v2._internal.execution"]
        monkeypatch.setattr(execution, "train_fn_utils", sys.modules[UTILS], raising=False)
        monkeypatch.setattr(sys.modules["pyarrow"], "fs", sys.modules["pyarrow.fs"], raising=False)
        monkeypatch.delitem(sys.modules, REPORTS, raising=False)
        self.utils: Any = importlib.import_module(REPORTS).OwnTrainFnUtils
        monkeypatch.delitem(sys.modules, REPORTS)


def test_an_asynchronous_report_is_made_at_once_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ray = RayTrain(monkeypatch, tmp_path)
    facts: list[Mapping[str, Any]] = []
    progress = {"step": 0}
    utils = ray.utils(facts.append, lambda: progress, "")
    checkpoint = SimpleNamespace(path=str(tmp_path))
    for _ in range(2):
        progress["step"] += 1
        utils.report({}, checkpoint, checkpoint_upload_mode=Mode.ASYNC)
    progress["step"] = 9
    for upload in reversed(ray.waiting):
        upload()
    assert [fact["step"] for fact in facts if fact["kind"] == "saved"] == [1, 2]
    told = [fact["message"] for fact in facts if fact["kind"] == "advice"]
    assert len(told) == 1
    assert "checkpoint_upload_mode: ASYNC became SYNC" in told[0]
    assert ray.deletes == [True, True], "as Ray does after an asynchronous upload"
