"""Saves and loads of DeepSpeed's engine: told to the supervisor, verified before they are read."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepspeed_trainer import checkpoint
from deepspeed_trainer.checkpoint import LATEST_FILE, CheckpointCorrupt
from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.steps import StepWatch
from deepspeed_trainer.hooks.wire import Report
from deepspeed_trainer.manifest import Manifest
from deepspeed_trainer.progress import Cause


class SaveWatch:
    """Follows what one rank saves and loads."""

    def __init__(self, rank: int, report: Report, steps: StepWatch) -> None:
        self._rank = rank
        self._report = report
        self._steps = steps
        self._guard = Guard(report)

    def patch(self, engine: Any) -> None:
        """Wrap the methods of the class DeepSpeedEngine."""
        engine.dsjob_write_beside = None  # see deepspeed_trainer.loop.engine.add_to_saves
        engine.save_checkpoint = self._wrap_save(engine.save_checkpoint)
        engine.load_checkpoint = self._wrap_load(engine.load_checkpoint)

    def _wrap_save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(save)
        def save_and_tell(
            engine: Any, save_dir: Any, tag: Any = None, *args: Any, **kw: Any
        ) -> Any:
            named = str(tag) if tag is not None else f"global_step{engine.global_steps}"
            folder = Path(os.path.abspath(save_dir)) / named  # noqa: PTH100  keeps links
            self._guard.call(self._clear_folder, folder)
            result = save(engine, save_dir, tag, *args, **kw)
            if engine.dsjob_write_beside is not None:
                engine.dsjob_write_beside()
            self._guard.call(self._note_saved, engine, folder, named)
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
        fact = {"kind": "saved", "folder": str(folder), "tag": tag, "step": self._steps.done}
        self._report({**fact, "zero_stage": int(stage)})

    def _wrap_load(self, load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def verify_and_load(
            engine: Any, load_dir: Any, tag: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            folder = self._guard.call(_find_folder, load_dir, tag)
            root, manifest = self._guard.call(_find_manifest, folder) or (folder, None)
            files = self._verify(root, manifest) if root and manifest else []
            result = load(engine, load_dir, tag, *args, **kwargs)
            was_loaded = bool(result and result[0] is not None)
            self._guard.call(
                self._note_loaded, engine, root if was_loaded else None, manifest, files
            )
            return result

        return verify_and_load

    def _verify(self, folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
        """Hash this rank's files before they are read; damage ends the attempt, on purpose."""
        try:
            own = checkpoint.verify(folder, manifest, self._rank)
        except CheckpointCorrupt as error:
            cause = Cause.CHECKPOINT_CORRUPT
            self._report({"kind": "verdict", "cause": cause, "message": str(error)})
            self._guard.call(checkpoint.reject, folder, str(error))
            raise
        return [file.to_wire() for file in own]

    def _note_loaded(
        self, engine: Any, folder: Path | None, manifest: Manifest | None, files: list[Any]
    ) -> None:
        if folder is not None:
            step = manifest.step if manifest else int(engine.global_steps)
            self._steps.start_from(step)
        self._report(
            {
                "kind": "loaded",
                "folder": str(folder) if folder else None,
                "step": self._steps.done,
                "attempt": manifest.attempt if manifest else int(os.environ["DSJOB_ATTEMPT"]),
                "files": files,
            }
        )


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
