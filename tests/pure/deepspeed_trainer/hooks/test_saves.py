"""A load that found nothing is no load: the first step tells that a checkpoint was left aside."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.contract import ATTEMPT_ENV, CHECKPOINT_DIR_ENV
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.hooks.saves import SaveWatch
from deepspeed_trainer.hooks.steps import StepWatch

FOLDER = "/saves"


class Program:
    """A rank's program that was given a checkpoint of step 5 to continue from."""

    def __init__(self, path: str) -> None:
        self.facts: list[Mapping[str, Any]] = []
        heart = Heartbeat(Page.anonymous, self.facts.append)
        steps = StepWatch(0, self.facts.append, heart)
        self.answer: tuple[str | None, dict[str, Any] | None] = (None, None)
        program = self

        class Engine:
            global_steps = 0

            def __init__(self) -> None:
                self.optimizer = SimpleNamespace(step=lambda: None)
                self.module = SimpleNamespace(training=True)

            def forward(self) -> None: ...

            def backward(self, _loss: float) -> None: ...

            def step(self) -> None:
                self.optimizer.step()

            def save_checkpoint(self, *_args: Any) -> bool:
                return True

            def load_checkpoint(self, *_args: Any) -> Any:
                return program.answer

            def zero_optimization_stage(self) -> int:
                return 3

            def scheduler_params(self) -> None:
                return None

            def train_batch_size(self) -> int:
                return 8

        steps.patch(Engine)
        self.saves = SaveWatch(0, self.facts.append, steps)
        self.saves.patch(Engine)
        self.engine = Engine()
        self.path = path

    def train(self) -> None:
        """Load, whatever comes back, and do two steps: as people write it."""
        self.engine.load_checkpoint(FOLDER)
        self.engine.step()
        self.engine.step()

    def ignored(self) -> list[tuple[int, str]]:
        return [(f["step"], f["path"]) for f in self.facts if f["kind"] == "ignored"]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    torch = SimpleNamespace(__version__="2", is_grad_enabled=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(__version__="0"))  # type: ignore[arg-type]
    path = f"runs/{tmp_path.name}/step-5"  # what was taken is remembered by its path
    chosen = Resumed(folder=FOLDER, tag="step5", step=5, attempt=1, path=path)
    for name, value in {**chosen.to_env(), ATTEMPT_ENV: "2", CHECKPOINT_DIR_ENV: FOLDER}.items():
        monkeypatch.setenv(name, value)
    return Program(path)


def test_a_load_that_found_nothing_is_told_before_the_first_step(program: Program) -> None:
    program.train()
    assert program.ignored() == [(5, program.path)]
    kinds = [fact["kind"] for fact in program.facts]
    assert kinds.index("ignored") < kinds.index("step")


def test_another_tag_than_the_chosen_one_is_no_resume_either(program: Program) -> None:
    program.answer = (f"{FOLDER}/older/file.pt", {})
    program.train()
    assert program.ignored() == [(5, program.path)]


def test_the_chosen_one_is_continued_from(program: Program) -> None:
    program.answer = (f"{FOLDER}/step5/file.pt", {})
    program.train()
    assert program.ignored() == []
    assert [fact["done"] for fact in program.facts if "rate" in fact] == [6, 7]


def test_a_save_under_the_name_of_a_converted_one_leaves_nothing_of_that_behind(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would be loaded again one day, in place of what was saved."""
    for tag in ("step5", "other"):
        (tmp_path / tag / "zero").mkdir(parents=True)
    chosen = Resumed(folder=str(tmp_path), tag="step5", step=5, attempt=1, path="p")
    monkeypatch.setenv(*next(iter(chosen.to_env().items())))
    for tag in ("step5", "other"):
        program.engine.save_checkpoint(str(tmp_path), tag)
    assert not (tmp_path / "step5" / "zero").exists()
    assert (tmp_path / "other" / "zero").exists(), "not ours to remove"


def test_a_save_tells_whose_end_it_waits_for(program: Program, tmp_path: Path) -> None:
    for begins, ends in ((True, False), (False, True), (False, False), (True, False)):
        if begins:
            program.saves.begin("Accelerator.save_state")
        program.engine.save_checkpoint(str(tmp_path), "tag")
        if ends:
            program.saves.end(closes=False)
    program.engine.step()
    program.engine.save_checkpoint(str(tmp_path), "tag")
    told = [(f["kind"], f.get("within")) for f in program.facts if "save" in f["kind"]]
    whole, half = ("saved", ""), ("saved", "Accelerator.save_state")
    end = ("save_end", None)
    assert told == [half, end, half, ("save_whole", None), end, whole, end, half, end, whole], (
        "a step says that what failed is over"
    )
