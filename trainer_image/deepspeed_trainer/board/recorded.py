"""An attempt with its storage: facts become changes of it, manifests, and lines of events.jsonl.

What the facts mean is decided in `attempt`; here what it decided is written down.  A write that
fails costs a checkpoint, never the training.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray

from deepspeed_trainer.board import preemption
from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.ranks import Orders, Resume, Verdict
from deepspeed_trainer.board.saves import Save
from deepspeed_trainer.board.storage import RunStorage
from deepspeed_trainer.checkpoints.choice import CannotResize
from deepspeed_trainer.checkpoints.files import lacks_room
from deepspeed_trainer.checkpoints.journal import Superseded
from deepspeed_trainer.checkpoints.lineage import NoSuchCheckpoint
from deepspeed_trainer.contract import (
    Cause,
    ContractError,
    Failure,
    ManifestFile,
    ResumedFrom,
    RunContract,
)

_CAUSES: Final = {
    CannotResize: Cause.WORLD_SIZE_CHANGED,
    NoSuchCheckpoint: Cause.NO_SUCH_CHECKPOINT,
    Superseded: Cause.SUPERSEDED,
}


class RecordedAttempt:
    """One attempt, what it leaves on the job's storage, and its log; single-threaded."""

    def __init__(self, contract: RunContract) -> None:
        self.attempt = Attempt(contract, _now())
        self._takers = {
            "loaded": self._take_loaded,
            "prepared": self._take_prepared,
            "damaged": self._take_damaged,
            "converted": self._take_converted,
            "unconverted": self._take_unconverted,
            "no_storage": self._take_no_storage,
            "closed": self._take_closed,
            "brought": self._take_brought,
            "save_lost": self._take_lost_save,
            **dict.fromkeys(preemption.FACTS, self._take_preemption),
        }
        self._storage = self._open_storage()

    def sync(self, rank: int, restart: int, facts: Sequence[Mapping[str, Any]]) -> Orders:
        """Take a rank's facts in their order and return its orders.

        Facts of a round that has ended are dropped: they would be taken for the next one's.
        """
        begun = self.attempt.restarts
        for fact in facts if restart == begun else ():
            self._take(rank, fact)
        if self.attempt.needs_resume:
            self._choose()
        orders = self.attempt.orders(rank, _now(), restart)
        if self.attempt.restarts > begun:
            self._log_restart()
        return orders

    def end_round(self, verdict: Verdict) -> float | None:
        """Return the seconds until a new group of workers may start, None when none may."""
        self._at_storage(self._finish_left)
        wait_s = self.attempt.end_round(verdict, _now())
        if wait_s is not None:
            self._log_restart()
        return wait_s

    def conclude(self, verdict: Verdict) -> None:
        """Everything has ended: find the cause and close the storage."""
        self.attempt.conclude(verdict, _now())
        failure = self.attempt.progress().failure
        if failure is not None:
            self._log("failed", cause=failure.cause, message=failure.message)
        else:
            self._log("succeeded")
        if self._storage is not None:
            self._storage.finish()

    def note_exported(self, path: str | None, problem: str) -> None:
        """Note where the newest checkpoint was exported to, or why it was not."""
        if self.attempt.checkpoint is not None and path is not None:
            self.attempt.checkpoint = replace(self.attempt.checkpoint, export=path)
            self._log("exported", step=self.attempt.checkpoint.step, path=path)
        else:
            self.attempt.take(0, {"kind": "advice", "message": problem}, _now())
            self._log("notExported", message=problem)

    def note_override(self, sentence: str) -> None:
        """Note which setting of a driver program gave way to the job's."""
        self.attempt.note_override(sentence)
        self._log("override", message=sentence)

    def note_head(self, grace_s: float | None) -> None:
        """The head's own pod was told to go, or was not: None."""
        self.attempt.preemption.note_head(grace_s, _now())

    def _take(self, rank: int, fact: Mapping[str, Any]) -> None:
        match fact["kind"]:
            case kind if kind in self._takers:
                self._takers[kind](rank, fact)
            case "step":
                if self.attempt.note_figures(rank, fact, _now()):
                    self._log("firstStep", rank=rank, step=fact["first"])
            case "end":
                self.attempt.note_end(rank, fact["end"], _now())
                self._log("ended", rank=rank, exitCode=fact["end"]["exit_code"])
            case _:
                self.attempt.take(rank, fact, _now())

    def _take_preemption(self, rank: int, fact: Mapping[str, Any]) -> None:
        self.attempt.preemption.take(rank, fact, _now())
        named = {name: value for name, value in fact.items() if name != "kind"}
        self._log(fact["kind"], rank=rank, **named)

    def _take_loaded(self, rank: int, fact: Mapping[str, Any]) -> None:
        names = ("step", "folder", "path")
        self._log("loaded", rank=rank, **{name: fact[name] for name in names})
        if fact["folder"] is not None:
            path = fact["path"] or _below_storage(self.attempt.contract, fact["folder"])
            self.attempt.note_loaded(rank, ResumedFrom(fact["step"], path, fact["attempt"]))

    def _take_prepared(self, rank: int, fact: Mapping[str, Any]) -> None:
        self.attempt.resuming.note_prepared(rank, int(fact["number"]))
        self._log_files(rank, fact)

    def _take_lost_save(self, rank: int, fact: Mapping[str, Any]) -> None:
        is_new = not self.attempt.saves.is_settled(int(fact["number"]))
        self.attempt.saves.give_up(int(fact["number"]))
        if is_new:
            self._log("saveLost", rank=rank, message=fact["message"])
        if is_new and fact["is_crowded"]:
            self.attempt.saves.note_skipped(fact["message"])
        if fact["lacks_room"]:
            self.attempt.room.note_full(int(fact["number"]), f"rank {rank}, {fact['message']}")
            self._at_storage(self._make_room)

    def _make_room(self, storage: RunStorage) -> None:
        self._remove_surplus(storage)
        storage.sweep(0)

    def _take_damaged(self, rank: int, fact: Mapping[str, Any]) -> None:
        if self.attempt.resuming.note_settled(int(fact["number"])):
            path, message = fact["path"], fact["message"]
            self._log("rejected", rank=rank, path=path, message=message)
            if not self._at_storage(lambda s: s.choosing.pass_over(path, message, _now())):
                why = f"that {path} is damaged could not be written down: {message}"
                self.attempt.fail(Failure(Cause.STORAGE, why[:2048]))

    def _take_converted(self, rank: int, fact: Mapping[str, Any]) -> None:
        """A copy for any number of ranks is there: it counts from now on, and is chosen next."""
        if not self.attempt.resuming.note_settled(int(fact["number"])):
            return
        files = tuple(ManifestFile(**file) for file in fact["files"])
        source, path = fact["source"], fact["path"]

        def commit(storage: RunStorage) -> None:
            self.attempt.resuming.converted = storage.commit_converted(source, path, files, _now())

        if self._at_storage(commit):
            names = {"source": source, "path": path, "message": self.attempt.resuming.converted}
            self._log("converted", rank=rank, seconds=fact["seconds"], **names)
        elif not self.attempt.has_failed:
            message = f"the converted copy of {source} could not be committed"
            self.attempt.fail(Failure(Cause.STORAGE, message[:2048]))

    def _take_unconverted(self, rank: int, fact: Mapping[str, Any]) -> None:
        message = f"rank {rank} could not convert checkpoint {fact['path']}: {fact['message']}"
        self.attempt.fail(Failure(Cause.WORLD_SIZE_CHANGED, message[:2048]))

    def _take_no_storage(self, rank: int, fact: Mapping[str, Any]) -> None:
        self.attempt.fail(Failure(Cause.STORAGE, fact["message"][:2048], rank))

    def _take_closed(self, rank: int, fact: Mapping[str, Any]) -> None:
        names = ("step", "tag", "path", "blocked_s", "size_bytes")
        self._log("saved", rank=rank, **{name: fact[name] for name in names})
        self.attempt.preemption.note_closed(int(fact["number"]), fact, _now())
        refusal = self.attempt.saves.note_closed(rank, fact)
        if refusal is not None:
            self._log("saveLost", rank=rank, message=refusal)

    def _take_brought(self, rank: int, fact: Mapping[str, Any]) -> None:
        self._log_files(rank, fact)
        files = tuple(ManifestFile(**file) for file in fact["files"])
        save = self.attempt.saves.note_brought(rank, int(fact["number"]), files)
        # Otherwise not all are there, or figures were reported and no checkpoint.
        if save is not None and any(save.files.values()):
            self._commit(save)

    def _finish_left(self, storage: RunStorage) -> None:
        """Commit the newest save that ranks held when their processes were killed."""
        left = storage.find_left(self.attempt.restarts, self.attempt.saves)
        save = next((save for save in left if any(save.files.values())), None)
        if save is not None:
            for rank, files in save.files.items():
                wire = [file.to_wire() for file in files]
                self._log_files(rank, {"kind": "brought", "step": save.step, "files": wire})
            self._commit(save)

    def _commit(self, save: Save) -> None:
        versions, metrics = {**self.attempt.versions, "ray": ray.__version__}, self.attempt.metrics
        done = self._at_storage(
            lambda storage: storage.commit(save, versions, metrics, _now()),
            number=save.number,
        )
        if not done:
            self.attempt.saves.has_litter = True
            return
        self.attempt.note_committed(save, _now())
        self._log("committed", step=save.step, tag=save.tag, path=save.path)
        self._at_storage(self._remove_surplus)
        if self.attempt.saves.has_litter:
            self.attempt.saves.has_litter = False
            self._at_storage(lambda storage: storage.sweep(save.number))

    def _remove_surplus(self, storage: RunStorage) -> None:
        for path in storage.remove_surplus(_now()):
            self._log("deleted", path=path, message="spec.checkpoint.keep")

    def _choose(self) -> None:
        if self._storage is None:
            self.attempt.resuming.choose(Resume(1), None)
            return
        try:
            resume, passed_over = self._storage.choosing.choose(_now())
        except (CannotResize, NoSuchCheckpoint, Superseded) as error:
            self.attempt.fail(Failure(_CAUSES[type(error)], str(error)[:2048]))
            return
        except OSError as error:
            self.attempt.fail(Failure(Cause.STORAGE, f"choosing a checkpoint: {error}"[:2048]))
            return
        self.attempt.resuming.choose(resume, passed_over)
        if resume.convert:
            self._log("converting", path=resume.convert, step=resume.step)
            return
        names = {"path": resume.save, "step": resume.step, "report": resume.report}
        self._log("chosen", **names, passedOver=passed_over)

    def _log_restart(self) -> None:
        why = self.attempt.progress().last_restarts[-1]
        named = {"cause": why.cause, "message": why.message, "rank": why.rank, "step": why.step}
        self._log("restarted", **named)

    def _log_files(self, rank: int, fact: Mapping[str, Any]) -> None:
        """Leave a trace of each rank's bytes: what was brought, and what was read again."""
        if fact["files"]:
            names = {"rank": rank, "step": fact["step"], "files": fact["files"]}
            self._log(fact["kind"], **names)

    def _open_storage(self) -> RunStorage | None:
        contract = self.attempt.contract
        if contract.storage is None:
            return None
        try:
            return RunStorage(contract, _now())
        except Superseded as error:
            self.attempt.fail(Failure(Cause.SUPERSEDED, str(error)))
        except (OSError, ContractError) as error:
            message = f"the job's storage at {contract.storage}: {error}"
            self.attempt.fail(Failure(Cause.STORAGE, message[:2048]))
        return None

    def _at_storage(self, act: Callable[[RunStorage], None], number: int = 0) -> bool:
        """Write to the storage; a superseded attempt ends, a failed write is told and no more."""
        try:
            if self._storage is not None:
                act(self._storage)
        except Superseded as error:
            self.attempt.fail(Failure(Cause.SUPERSEDED, str(error)))
        except OSError as error:
            # Training goes on: this checkpoint does not count, the one before still does.
            message = f"{type(error).__name__}: {error}"
            self._log("saveLost", message=message)
            if lacks_room(error):
                self.attempt.room.note_full(number, f"head, {message}")
        else:
            return True
        return False

    def _log(self, event: str, **details: Any) -> None:
        """Add a line to the attempt's events.jsonl, when there is storage."""
        round_of_it = {"restart": self.attempt.restarts} if self.attempt.restarts else {}
        line = json.dumps({"time": _now(), "event": event, **round_of_it, **details})
        print(line, flush=True)  # noqa: T201  the actor's log in Ray's session folder
        if self._storage is None:
            return
        try:
            self._storage.note_event(line, _now())
        except OSError as error:
            print(f"events.jsonl: {error}", flush=True)  # noqa: T201  see above


def _now() -> float:
    return time.time()  # noqa: TID251  facts carry the wall clock of the head


def _below_storage(contract: RunContract, folder: str) -> str:
    root = Path(contract.storage or "/").resolve()
    path = Path(folder).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
