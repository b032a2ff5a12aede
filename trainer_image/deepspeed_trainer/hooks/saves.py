"""Saves and loads of DeepSpeed's engine: what a rank saved, when a save is whole, what came back.

A save is open until no more files are added to it: random states and the like are written after the
engine's own files.  It ends with its framework's own end of a save (see `ends`), the next save or
optimizer step, or the program.
"""

import functools
import inspect
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.checkpoints.files import free_names
from deepspeed_trainer.contract import ATTEMPT_ENV, CHECKPOINT_DIR_ENV
from deepspeed_trainer.hooks.batch import describe_batch, require_same_batch
from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.hooks.room import SaveRoom
from deepspeed_trainer.hooks.steps import StepWatch
from deepspeed_trainer.hooks.universal import (
    CONVERTED_DIR,
    describe_obstacle,
    is_converted,
    loading_converted,
    put_right,
)
from deepspeed_trainer.hooks.wire import Report

WRITER_MODULE: Final = "deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine"
"""Where DeepSpeed writes a save's files, if its configuration names no other way."""


class SaveWatch:
    """Follows what one rank saves and loads."""

    def __init__(self, rank: int, report: Report, steps: StepWatch) -> None:
        self._rank = rank
        self._report = report
        self._steps = steps
        self._guard = Guard(report)
        self._room = SaveRoom()
        self._is_open = False
        self._within = ""
        """The framework's method that has begun a save and not ended it."""
        self._saved: dict[Path, int] = {}
        self._has_stepped = False
        self._saved_at = -1
        steps.before_step = self._note_step_begins

    def patch(self, engine: Any) -> None:
        """Wrap the methods of the class DeepSpeedEngine."""
        engine.dsjob_write_beside = None  # see deepspeed_trainer.loop.engine.add_to_saves
        engine.save_checkpoint = self._wrap_save(engine.save_checkpoint)
        engine.load_checkpoint = self._wrap_load(engine.load_checkpoint)

    def patch_writer(self, module: ModuleType) -> None:
        """Wrap what writes each file of the engine's save."""
        writer = module.TorchCheckpointEngine
        writer.save = self._room.guard(writer.save)

    def describe_sizes(self, engine: Any) -> Mapping[str, Any]:
        """Return what a checkpoint's manifest says about other numbers of ranks; never raises."""
        return self._guard.call(_describe_sizes, engine) or {}

    def has_saved(self, step: int) -> bool:
        """Return whether the last save was made after this step."""
        return self._saved_at == step

    def begin(self, method: str) -> None:
        """Say that a framework's method saves: until its end what the engine saved is half."""
        self._within = method

    def end(self, *, closes: bool) -> None:
        """Say that a framework's save is whole, and with `closes` that nothing is added to it."""
        self._within = ""
        if closes:
            self.close()
        elif self._is_open:
            self._report({"kind": "save_whole"})

    def close(self) -> None:
        """Say that nothing is added to the save before; waits until its files are held."""
        if self._is_open:
            self._is_open = False
            self._steps.heartbeat.enter(Phase.SAVE)
            self._report({"kind": "save_end"})
            self._steps.heartbeat.leave()

    def _note_step_begins(self) -> None:
        """What was saved before this step is whole; the first step shows what was not loaded."""
        self.close()
        self._within = ""
        if self._has_stepped:
            return
        self._has_stepped = True
        resumed = Resumed.from_env()
        if resumed.is_ignored:
            self._report({"kind": "ignored", "step": resumed.step, "path": resumed.path})

    def _wrap_save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(save)
        def save_and_tell(
            engine: Any, save_dir: Any, tag: Any = None, *args: Any, **kw: Any
        ) -> Any:
            named = str(tag) if tag is not None else f"global_step{engine.global_steps}"
            folder = Path(os.path.abspath(save_dir))  # noqa: PTH100  keeps links
            self._guard.call(self._begin_save, folder, named)
            began = time.monotonic()
            result = save(engine, save_dir, tag, *args, **kw)
            if self._guard.call(self._skip_without_room, folder, named):
                return result
            if engine.dsjob_write_beside is not None:
                engine.dsjob_write_beside()
            self._guard.call(self._note_saved, engine, folder, named, time.monotonic() - began)
            return result

        return save_and_tell

    def _begin_save(self, folder: Path, tag: str) -> None:
        """Before the first byte: end the save before, and write to no file that is held fast."""
        self.close()
        self._room.begin(folder)
        free_names(folder / tag, self._rank, is_first=os.environ.get("LOCAL_RANK") == "0")
        if folder / tag not in self._saved and _is_chosen(folder / tag, Resumed.from_env()):
            # What was continued from is no part of what is saved under the same name.
            shutil.rmtree(folder / tag / CONVERTED_DIR, ignore_errors=True)

    def _skip_without_room(self, folder: Path, tag: str) -> bool:
        """Take back a save that a rank had no room for; True on all ranks alike.

        DeepSpeed ends a save with a barrier, so all ranks are here.
        """
        reason = self._room.agree()
        if reason is None:
            return False
        self._room.take_back(folder, tag, self._rank)
        self._report({**self._describe(folder, tag), "zero_stage": 0, "lacks": reason})
        return True

    def _note_saved(self, engine: Any, folder: Path, tag: str, wrote_s: float) -> None:
        self._is_open = True
        self._saved[folder / tag] = self._saved_at = self._steps.done
        zero_stage = int(engine.zero_optimization_stage())
        more = {
            "zero_stage": zero_stage,
            "wrote_s": round(wrote_s, 6),
            **self.describe_sizes(engine),
        }
        self._report({**self._describe(folder, tag), **more})

    def _describe(self, folder: Path, tag: str) -> dict[str, Any]:
        return {
            "kind": "saved",
            "folder": str(folder),
            "only": tag,
            "tag": tag,
            "source": _describe_source(folder),
            "step": self._steps.done,
            "within": self._within,
        }

    def _wrap_load(self, load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def load_and_tell(
            engine: Any, load_dir: Any, tag: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            chosen = self._guard.call(_find_chosen, load_dir, tag)
            if chosen is not None:
                require_same_batch(engine, Resumed.from_env().batch, self._report)
            if chosen is not None and is_converted(chosen):
                given = inspect.signature(load).bind(engine, load_dir, tag, *args, **kwargs)
                result = _load_converted(load, given, chosen)
            else:
                result = load(engine, load_dir, tag, *args, **kwargs)
            path = result[0] if result else None
            self._guard.call(self._note_loaded, engine, path)
            return result

        return load_and_tell

    def _note_loaded(self, engine: Any, path: str | None) -> None:
        """Take which step came back; DeepSpeed's own count stays 0 in some programs."""
        folder = Path(os.path.abspath(path)).parent if path else None  # noqa: PTH100  keeps links
        resumed = Resumed.from_env()
        attempt, below = int(os.environ[ATTEMPT_ENV]), ""
        if folder is not None:
            step = self._saved.get(folder, int(engine.global_steps))
            if _is_chosen(folder, resumed):
                step, attempt, below = resumed.step, resumed.attempt, resumed.path
                resumed.note_taken()
            self._steps.start_from(engine, step)
        self._report(
            {
                "kind": "loaded",
                "folder": str(folder) if folder else None,
                "path": below,
                "step": self._steps.done,
                "attempt": attempt,
            }
        )


def _describe_sizes(engine: Any) -> dict[str, Any]:
    return {"batch": describe_batch(engine), "unresizable": describe_obstacle(engine)}


def _find_chosen(load_dir: Any, tag: Any) -> Path | None:
    """Return the tag's folder that a program is about to load, if it is what we brought."""
    folder = Path(os.path.abspath(load_dir))  # noqa: PTH100  keeps links
    latest = folder / "latest"
    if tag is None and latest.is_file():
        tag = latest.read_text().strip()
    if tag is None or not _is_chosen(folder / str(tag), Resumed.from_env()):
        return None
    return folder / str(tag)


def _load_converted(load: Callable[..., Any], given: inspect.BoundArguments, chosen: Path) -> Any:
    """Load a converted checkpoint whole; its tag is named, as it has no `latest` of its own."""
    given.arguments["tag"] = chosen.name
    given.apply_defaults()
    engine = given.arguments["self"]
    with loading_converted(engine):
        result = load(*given.args, **given.kwargs)
    wants_states = given.arguments["load_optimizer_states"]
    with_optimizer = wants_states and not given.arguments["load_module_only"]
    put_right(engine, chosen, result[0], with_optimizer=with_optimizer)
    return result


def _is_chosen(folder: Path, resumed: Resumed) -> bool:
    if resumed.folder and folder == Path(resumed.folder) / resumed.tag:
        return True
    return bool(resumed.report) and folder.is_relative_to(resumed.report)


def _describe_source(folder: Path) -> str:
    """Return where a program saves: below its checkpoint folder, which each attempt has anew."""
    own = Path(os.environ[CHECKPOINT_DIR_ENV])
    return folder.relative_to(own).as_posix() if folder.is_relative_to(own) else str(folder)
