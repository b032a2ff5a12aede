"""What is patched in a rank: DeepSpeed's engine and monitor, and torch's process group.

Private parts of other packages are touched in this module alone; tests/trainer runs it against the
pinned versions.  Steps are counted at the engine's optimizer, because some programs call
`optimizer.step()` and leave `engine.global_steps` at 0.  The first engine that has an optimizer is
the one that counts.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from deepspeed_trainer import checkpoint
from deepspeed_trainer.checkpoint import LATEST_FILE, CheckpointCorrupt
from deepspeed_trainer.hooks.meter import Meter, format_decimal
from deepspeed_trainer.hooks.patching import Patch
from deepspeed_trainer.hooks.wire import Report
from deepspeed_trainer.manifest import Manifest
from deepspeed_trainer.progress import Cause

LOSS_INTERVAL_S: Final = 0.5
"""Reading a loss from a device waits for the device, so it is done this often at most."""


class EngineWatch:
    """Follows one engine of one rank and reports what it does."""

    def __init__(self, rank: int, report: Report) -> None:
        self._rank = rank
        self._report = report
        self._engine: Any = None
        self._meter = Meter()
        self._base = 0
        self._done = 0
        self._begun = 0
        self._loss: Any = None
        self._loss_read_at = 0.0

    def patches(self, *, makes_group: bool = False) -> Mapping[str, Patch]:
        """Return patches by module name; `makes_group` where the program makes its own group."""
        named: dict[str, Patch] = {
            "deepspeed.runtime.engine": self.patch_engine,
            "deepspeed.monitor.monitor": self.patch_monitor,
        }
        if makes_group:
            group = functools.partial(_patch_group, self._report)
            named["torch.distributed.distributed_c10d"] = group
        return named

    def describe_progress(self) -> Mapping[str, int]:
        """Return the step that was done last, and the ZeRO stage of the engine that did it."""
        stage = 0 if self._engine is None else int(self._engine.zero_optimization_stage())
        return {"step": self._done, "zero_stage": stage}

    def patch_engine(self, module: ModuleType) -> None:
        """Wrap the engine's methods."""
        engine = module.DeepSpeedEngine
        self._after(engine, "__init__", self._note_engine)
        self._before(engine, "forward", self._note_forward)
        self._before(engine, "backward", self._note_backward)
        engine.save_checkpoint = self._wrap_save(engine.save_checkpoint)
        engine.load_checkpoint = self._wrap_load(engine.load_checkpoint)
        _spare_the_compiler()

    def patch_monitor(self, module: ModuleType) -> None:
        """Turn the events of DeepSpeed's monitor into metrics, whether a monitor is on or not."""
        self._before(module.MonitorMaster, "write_events", self._note_events)

    # Steps.

    def _note_engine(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        step = getattr(engine.optimizer, "step", None)
        if self._engine is not None or step is None:
            return
        self._engine = engine

        @functools.wraps(step)
        def counted_step(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            self._guard(self._note_step)
            return result

        engine.optimizer.step = counted_step
        self._report(
            {
                "kind": "engine",
                "zero_stage": engine.zero_optimization_stage(),
                "total_steps": _total_steps(engine),
                "versions": _versions(),
            }
        )

    def _note_forward(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        """With ZeRO-3 a forward alone needs all ranks; below, only a backward does."""
        import torch  # noqa: PLC0415  imported long ago by the program

        is_training = engine.module.training and torch.is_grad_enabled()
        if is_training and engine.zero_optimization_stage() == 3:
            self._note_begun(engine)

    def _note_backward(self, engine: Any, loss: Any = None, *_args: Any, **_kwargs: Any) -> None:
        self._note_begun(engine)
        if engine is self._engine and self._rank == 0 and hasattr(loss, "detach"):
            self._loss = loss.detach()

    def _note_begun(self, engine: Any) -> None:
        if engine is self._engine and self._begun <= self._done:
            self._begun = self._done + 1
            self._report({"kind": "step", "done": self._done, "begun": self._begun})

    def _note_step(self) -> None:
        self._done += 1
        self._begun = max(self._begun, self._done)
        now = time.monotonic()
        self._meter.add(now, self._engine.train_batch_size())
        fact = {
            "kind": "step",
            "done": self._done,
            "begun": self._done,
            "rate": self._meter.per_second,
        }
        if self._loss is not None and now - self._loss_read_at >= LOSS_INTERVAL_S:
            self._loss_read_at = now
            fact["loss"] = format_decimal(float(self._loss))
        if self._done == self._base + 1:
            fact["first"] = self._done
        self._report(fact)

    def _note_events(self, _master: Any, events: Sequence[Sequence[Any]]) -> None:
        values = {str(event[0])[:128]: format_decimal(float(event[1])) for event in events}
        if self._rank == 0 and values:
            self._report({"kind": "metrics", "values": values})

    # Saves and loads.

    def _wrap_save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(save)
        def save_and_tell(
            engine: Any, save_dir: Any, tag: Any = None, *args: Any, **kw: Any
        ) -> Any:
            named = str(tag) if tag is not None else f"global_step{engine.global_steps}"
            folder = Path(os.path.abspath(save_dir)) / named  # noqa: PTH100  keeps links
            self._guard(self._clear_folder, folder)
            result = save(engine, save_dir, tag, *args, **kw)
            self._guard(self._note_saved, engine, folder, named)
            return result

        return save_and_tell

    def _clear_folder(self, folder: Path) -> None:
        """Before the first byte: never write through a link, never under a valid manifest.

        Only rank 0 does it; DeepSpeed's barrier at the start of a save holds the others.
        """
        if self._rank != 0:
            return
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            self._report({"kind": "saving", "folder": str(folder)})

    def _note_saved(self, engine: Any, folder: Path, tag: str) -> None:
        stage = engine.zero_optimization_stage()
        fact = {"kind": "saved", "folder": str(folder), "tag": tag, "step": self._done}
        self._report({**fact, "zero_stage": int(stage)})

    def _wrap_load(self, load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def verify_and_load(
            engine: Any, load_dir: Any, tag: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            folder = self._guard(_find_folder, load_dir, tag)
            root, manifest = self._guard(_find_manifest, folder) or (folder, None)
            files = self._verify(root, manifest) if root and manifest else []
            result = load(engine, load_dir, tag, *args, **kwargs)
            was_loaded = bool(result and result[0] is not None)
            self._guard(self._note_loaded, engine, root if was_loaded else None, manifest, files)
            return result

        return verify_and_load

    def _verify(self, folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
        """Hash this rank's files before they are read; damage ends the attempt, on purpose."""
        try:
            own = checkpoint.verify(folder, manifest, self._rank)
        except CheckpointCorrupt as error:
            cause = Cause.CHECKPOINT_CORRUPT
            self._report({"kind": "verdict", "cause": cause, "message": str(error)})
            self._guard(checkpoint.reject, folder, str(error))
            raise
        return [file.to_wire() for file in own]

    def _note_loaded(
        self, engine: Any, folder: Path | None, manifest: Manifest | None, files: list[Any]
    ) -> None:
        if folder is not None:
            step = manifest.step if manifest else int(engine.global_steps)
            self._base = self._done = self._begun = step
        self._report(
            {
                "kind": "loaded",
                "folder": str(folder) if folder else None,
                "step": self._base,
                "attempt": manifest.attempt if manifest else int(os.environ["DSJOB_ATTEMPT"]),
                "files": files,
            }
        )

    # Wrapping without harm.

    def _after(self, owner: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._guard(note, *args, **kwargs)
            return result

        setattr(owner, name, wrapped)

    def _before(self, owner: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._guard(note, *args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    def _guard(self, note: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call our own code; its failure becomes a fact, never the program's."""
        try:
            return note(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  a hook must never break training
            self._report({"kind": "hook", "failure": f"{note.__name__}: {error!r}"[:500]})
            return None


def _patch_group(report: Report, module: ModuleType) -> None:
    """Report the size of the default process group whenever one was made."""
    original = module.init_process_group

    @functools.wraps(original)
    def init_and_tell(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        report({"kind": "group", "size": module.get_world_size()})
        return result

    setattr(module, "init_process_group", init_and_tell)  # noqa: B010  a module has no such type


def _spare_the_compiler() -> None:
    """Keep DeepSpeed from compiling its shared-memory op at start, which ZeRO never calls.

    It is used on CPU where all ranks share one host, and left alone where the image has it built.
    """
    import deepspeed.ops  # noqa: PLC0415  being imported by the program right now
    from deepspeed.accelerator import get_accelerator  # noqa: PLC0415
    from deepspeed.git_version_info import installed_ops  # noqa: PLC0415

    op = "deepspeed_shm_comm"
    if get_accelerator().device_name() == "cpu" and not installed_ops.get(op):
        deepspeed.ops.__compatible_ops__[op] = False


def _find_folder(load_dir: Any, tag: Any) -> Path | None:
    base = Path(os.path.abspath(load_dir))  # noqa: PTH100  keeps links
    if tag is not None:
        return base / str(tag)
    latest = base / LATEST_FILE
    return base / latest.read_text().strip() if latest.is_file() else None


def _find_manifest(folder: Path | None) -> tuple[Path, Manifest] | None:
    """Return the manifest of a checkpoint and where it lies.

    That is in the tag's folder, or above it when the save was handed to ray.train.report.
    """
    for place in (folder, folder.parent) if folder else ():
        manifest = checkpoint.read_manifest(place)
        if manifest is not None:
            return place, manifest
    return None


def _total_steps(engine: Any) -> int | None:
    total = (engine.scheduler_params() or {}).get("total_num_steps")
    return int(total) if total else None


def _versions() -> dict[str, str]:
    import deepspeed  # noqa: PLC0415  imported long ago by the program
    import torch  # noqa: PLC0415

    return {"torch": str(torch.__version__), "deepspeed": str(deepspeed.__version__)}
