"""The board: a detached actor on the head that ranks report to and the operator reads.

It outlives the driver, so that the end of a run whose driver was killed can still be read.  It
turns facts into changes of the Attempt, writes manifests and events.jsonl to the job's storage
(the head mounts it too) and answers with orders.  What the facts mean is decided in `attempt`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import ray

from deepspeed_trainer import leaving
from deepspeed_trainer.board import preemption
from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.endpoint import ProgressServer
from deepspeed_trainer.board.ranks import Orders, Resume, Verdict
from deepspeed_trainer.board.saves import Save
from deepspeed_trainer.board.storage import RunStorage
from deepspeed_trainer.checkpoints.choice import CannotResize
from deepspeed_trainer.checkpoints.files import lacks_room
from deepspeed_trainer.checkpoints.journal import Superseded
from deepspeed_trainer.contract import (
    Cause,
    ContractError,
    Failure,
    ManifestFile,
    ResumedFrom,
    RunContract,
    RunPhase,
)

MAX_BOARDS: Final = 32
PUBLISH_EVERY_S: Final = 0.2
"""How often what ranks tell is made an answer of; a thousand of them come within seconds."""
QUIET: Final = frozenset({"step", "beat", "stack"})
"""Facts that every rank brings all the time."""


class Board:
    """Boards of this head by submission id; runs as a Ray actor, one call at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._storages: dict[str, RunStorage] = {}
        self._answers: dict[str, str] = {}
        self._published_at: dict[str, float] = {}
        self._stale: set[str] = set()
        self._takers = {
            "loaded": self._take_loaded,
            "prepared": self._take_prepared,
            "damaged": self._take_damaged,
            "converted": self._take_converted,
            "unconverted": self._take_unconverted,
            "closed": self._take_closed,
            "brought": self._take_brought,
            "save_lost": self._take_lost_save,
            **dict.fromkeys(preemption.FACTS, self._take_preemption),
        }
        self._pod = leaving.HeldPod(leaving.find_folder())
        self._server = ProgressServer(port, token, self._answers.get)
        self._server.start()

    def open(self, contract_json: str) -> bool:
        """Start a board and open the attempt's epoch; False when the storage does not let it.

        The oldest board goes when there are too many.
        """
        contract = RunContract.from_json(contract_json)
        if len(self._attempts) >= MAX_BOARDS:
            oldest = next(iter(self._attempts))
            del self._attempts[oldest], self._answers[oldest], self._published_at[oldest]
            self._storages.pop(oldest, None)
        attempt = self._attempts[contract.submission_id] = Attempt(contract, _now())
        if contract.storage is not None:
            self._open_storage(attempt)
        self._publish(contract.submission_id)
        return not attempt.has_failed

    def set_phase(self, submission_id: str, phase: str) -> None:
        """The driver says where it is."""
        self._attempts[submission_id].phase = RunPhase(phase)
        self._publish(submission_id)

    def fail(self, submission_id: str, cause: str, message: str) -> None:
        """End an attempt from the driver's side: supervisors stop their ranks."""
        self._attempts[submission_id].fail(Failure(Cause(cause), message[:2048]))
        self._publish(submission_id)

    def conclude(self, submission_id: str, verdict: Verdict) -> str:
        """Close the board and return the final Progress as JSON."""
        attempt = self._attempts[submission_id]
        attempt.conclude(verdict, _now())
        failure = attempt.progress().failure
        if failure is not None:
            self._log(attempt, "failed", cause=failure.cause, message=failure.message)
        else:
            self._log(attempt, "succeeded")
        if submission_id in self._storages:
            self._storages[submission_id].finish()
        self._publish(submission_id)
        self._pod.release()
        return self._answers[submission_id]

    def note_exported(self, submission_id: str, path: str | None, problem: str) -> str:
        """Show where the newest checkpoint was exported to, or why it was not."""
        attempt = self._attempts[submission_id]
        if attempt.checkpoint is not None and path is not None:
            attempt.checkpoint = replace(attempt.checkpoint, export=path)
            self._log(attempt, "exported", step=attempt.checkpoint.step, path=path)
        else:
            attempt.take(0, {"kind": "advice", "message": problem}, _now())
            self._log(attempt, "notExported", message=problem)
        self._publish(submission_id)
        return self._answers[submission_id]

    def note_metrics(self, submission_id: str, metrics: Mapping[str, str]) -> None:
        """Take figures that rank 0 gave to ray.train.report."""
        self._attempts[submission_id].note_metrics(0, metrics)
        self._publish(submission_id)

    def note_lost(self, submission_id: str, lost: Mapping[int, str], restart: int) -> None:
        """Take which ranks' workers died and why, where the driver is not told."""
        self._attempts[submission_id].note_lost(lost, restart)

    def end_round(self, submission_id: str, verdict: Verdict) -> float | None:
        """Return the seconds until a new group of workers may start, None when none may."""
        attempt = self._attempts[submission_id]
        self._at_storage(attempt, lambda storage: self._finish_left(attempt, storage))
        wait_s = attempt.end_round(verdict, _now())
        if wait_s is not None:
            self._note_restart(attempt)
        return wait_s

    def note_override(self, submission_id: str, sentence: str) -> None:
        """Take which setting of a driver program gave way to the job's."""
        attempt = self._attempts[submission_id]
        attempt.note_override(sentence)
        self._log(attempt, "override", message=sentence)
        self._publish(submission_id)

    def sync(
        self, submission_id: str, rank: int, restart: int, facts: Sequence[Mapping[str, Any]]
    ) -> Orders:
        """Take a rank's facts in their order and return its orders.

        Facts of a round that has ended are dropped: they would be taken for the next one's.
        """
        attempt = self._attempts[submission_id]
        attempt.preemption.note_head(self._pod.hold(), _now())
        begun = attempt.restarts
        for fact in facts if restart == begun else ():
            self._take(attempt, rank, fact)
        if attempt.needs_resume:
            self._choose(attempt)
        orders = attempt.orders(rank, _now(), restart)
        if attempt.restarts > begun:
            self._note_restart(attempt)
        # The steps of other ranks are not shown, and there may be many of them.
        if rank == 0 or any(fact["kind"] not in QUIET for fact in facts):
            self._stale.add(submission_id)
        if submission_id in self._stale:
            self._publish_in_turn(submission_id)
        return orders

    def _note_restart(self, attempt: Attempt) -> None:
        why = attempt.progress().last_restarts[-1]
        named = {"cause": why.cause, "message": why.message, "rank": why.rank, "step": why.step}
        self._log(attempt, "restarted", **named)
        self._publish(attempt.contract.submission_id)

    def _take(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        match fact["kind"]:
            case kind if kind in self._takers:
                self._takers[kind](attempt, rank, fact)
            case "step":
                if attempt.note_figures(rank, fact, _now()):
                    self._log(attempt, "firstStep", rank=rank, step=fact["first"])
            case "end":
                attempt.note_end(rank, fact["end"], _now())
                self._log(attempt, "ended", rank=rank, exitCode=fact["end"]["exit_code"])
            case _:
                attempt.take(rank, fact, _now())

    def _take_preemption(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        attempt.preemption.take(rank, fact, _now())
        named = {name: value for name, value in fact.items() if name != "kind"}
        self._log(attempt, fact["kind"], rank=rank, **named)

    def _take_loaded(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        names = ("step", "folder", "path")
        self._log(attempt, "loaded", rank=rank, **{name: fact[name] for name in names})
        if fact["folder"] is not None:
            path = fact["path"] or _below_storage(attempt.contract, fact["folder"])
            attempt.note_loaded(rank, ResumedFrom(fact["step"], path, fact["attempt"]))

    def _take_prepared(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        attempt.resuming.note_prepared(rank, int(fact["number"]))
        self._log_files(attempt, rank, fact)

    def _take_lost_save(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        is_new = not attempt.saves.is_settled(int(fact["number"]))
        attempt.saves.give_up(int(fact["number"]))
        if is_new:
            self._log(attempt, "saveLost", rank=rank, message=fact["message"])
        if is_new and fact["is_crowded"]:
            attempt.saves.note_skipped(fact["message"])
        if fact["lacks_room"]:
            attempt.room.note_full(int(fact["number"]), f"rank {rank}, {fact['message']}")
            self._at_storage(attempt, lambda storage: self._make_room(attempt, storage))

    def _make_room(self, attempt: Attempt, storage: RunStorage) -> None:
        self._remove_surplus(attempt, storage)
        storage.sweep(0)

    def _take_damaged(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        if attempt.resuming.note_settled(int(fact["number"])):
            names = {"path": fact["path"], "message": fact["message"]}
            self._log(attempt, "rejected", rank=rank, **names)
            self._at_storage(
                attempt, lambda storage: storage.reject(fact["path"], fact["message"], _now())
            )

    def _take_converted(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        """A copy for any number of ranks is there: it counts from now on, and is chosen next."""
        if not attempt.resuming.note_settled(int(fact["number"])):
            return
        files = tuple(ManifestFile(**file) for file in fact["files"])
        source, path = fact["source"], fact["path"]

        def commit(storage: RunStorage) -> None:
            attempt.resuming.converted = storage.commit_converted(source, path, files, _now())

        if self._at_storage(attempt, commit):
            names = {"source": source, "path": path, "message": attempt.resuming.converted}
            self._log(attempt, "converted", rank=rank, seconds=fact["seconds"], **names)
        elif not attempt.has_failed:
            message = f"the converted copy of {source} could not be committed"
            attempt.fail(Failure(Cause.STORAGE, message[:2048]))

    def _take_unconverted(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        message = f"rank {rank} could not convert checkpoint {fact['path']}: {fact['message']}"
        attempt.fail(Failure(Cause.WORLD_SIZE_CHANGED, message[:2048]))

    def _take_closed(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        names = ("step", "tag", "path", "blocked_s", "size_bytes")
        self._log(attempt, "saved", rank=rank, **{name: fact[name] for name in names})
        attempt.preemption.note_closed(int(fact["number"]), fact, _now())
        refusal = attempt.saves.note_closed(rank, fact)
        if refusal is not None:
            self._log(attempt, "saveLost", rank=rank, message=refusal)

    def _take_brought(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        self._log_files(attempt, rank, fact)
        files = tuple(ManifestFile(**file) for file in fact["files"])
        save = attempt.saves.note_brought(rank, int(fact["number"]), files)
        # Otherwise not all are there, or figures were reported and no checkpoint.
        if save is not None and any(save.files.values()):
            self._commit(attempt, save)

    def _finish_left(self, attempt: Attempt, storage: RunStorage) -> None:
        """Commit the newest save that ranks held when their processes were killed."""
        left = storage.find_left(attempt.restarts, attempt.saves)
        save = next((save for save in left if any(save.files.values())), None)
        if save is not None:
            for rank, files in save.files.items():
                wire = [file.to_wire() for file in files]
                self._log_files(
                    attempt, rank, {"kind": "brought", "step": save.step, "files": wire}
                )
            self._commit(attempt, save)

    def _commit(self, attempt: Attempt, save: Save) -> None:
        versions, metrics = {**attempt.versions, "ray": ray.__version__}, attempt.metrics
        done = self._at_storage(
            attempt,
            lambda storage: storage.commit(save, versions, metrics, _now()),
            number=save.number,
        )
        if not done:
            attempt.saves.has_litter = True
            return
        attempt.note_committed(save, _now())
        self._log(attempt, "committed", step=save.step, tag=save.tag, path=save.path)
        self._at_storage(attempt, lambda storage: self._remove_surplus(attempt, storage))
        if attempt.saves.has_litter:
            attempt.saves.has_litter = False
            self._at_storage(attempt, lambda storage: storage.sweep(save.number))

    def _remove_surplus(self, attempt: Attempt, storage: RunStorage) -> None:
        for path in storage.remove_surplus(_now()):
            self._log(attempt, "deleted", path=path, message="spec.checkpoint.keep")

    def _log_files(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        """Leave a trace of each rank's bytes: what was brought, and what was read again."""
        if fact["files"]:
            names = {"rank": rank, "step": fact["step"], "files": fact["files"]}
            self._log(attempt, fact["kind"], **names)

    def _open_storage(self, attempt: Attempt) -> None:
        contract = attempt.contract
        try:
            self._storages[contract.submission_id] = RunStorage(contract, _now())
        except Superseded as error:
            attempt.fail(Failure(Cause.SUPERSEDED, str(error)))
        except (OSError, ContractError) as error:
            message = f"the job's storage at {contract.storage}: {error}"
            attempt.fail(Failure(Cause.STORAGE, message[:2048]))

    def _choose(self, attempt: Attempt) -> None:
        storage = self._storages.get(attempt.contract.submission_id)
        if storage is None:
            attempt.resuming.choose(Resume(1), None)
            return
        try:
            resume, passed_over = storage.choose()
        except CannotResize as error:
            attempt.fail(Failure(Cause.WORLD_SIZE_CHANGED, str(error)[:2048]))
            return
        except OSError as error:
            attempt.fail(Failure(Cause.STORAGE, f"choosing a checkpoint: {error}"[:2048]))
            return
        attempt.resuming.choose(resume, passed_over)
        if resume.convert:
            self._log(attempt, "converting", path=resume.convert, step=resume.step)
            return
        names = {"path": resume.save, "step": resume.step, "report": resume.report}
        self._log(attempt, "chosen", **names, passedOver=passed_over)

    def _at_storage(
        self, attempt: Attempt, act: Callable[[RunStorage], None], number: int = 0
    ) -> bool:
        """Write to the storage; a superseded attempt ends, a failed write is told and no more."""
        storage = self._storages.get(attempt.contract.submission_id)
        try:
            if storage is not None:
                act(storage)
        except Superseded as error:
            attempt.fail(Failure(Cause.SUPERSEDED, str(error)))
        except OSError as error:
            # Training goes on: this checkpoint does not count, the one before still does.
            message = f"{type(error).__name__}: {error}"
            self._log(attempt, "saveLost", message=message)
            if lacks_room(error):
                attempt.room.note_full(number, f"head, {message}")
        else:
            return True
        return False

    def _publish_in_turn(self, submission_id: str) -> None:
        """Publish unless that was done a moment ago: another rank's call will do it."""
        if monotonic() - self._published_at[submission_id] >= PUBLISH_EVERY_S:
            self._publish(submission_id)

    def _publish(self, submission_id: str) -> None:
        self._stale.discard(submission_id)
        self._published_at[submission_id] = monotonic()
        self._answers[submission_id] = self._attempts[submission_id].progress().to_json()

    def _log(self, attempt: Attempt, event: str, **details: Any) -> None:
        """Add a line to the attempt's events.jsonl, when there is storage."""
        round_of_it = {"restart": attempt.restarts} if attempt.restarts else {}
        line = json.dumps({"time": _now(), "event": event, **round_of_it, **details})
        print(line, flush=True)  # noqa: T201  the actor's log in Ray's session folder
        storage = self._storages.get(attempt.contract.submission_id)
        if storage is None:
            return
        try:
            storage.note_event(line, _now())
        except OSError as error:
            print(f"events.jsonl: {error}", flush=True)  # noqa: T201  see above


def _now() -> float:
    return time.time()  # noqa: TID251  facts carry the wall clock of the head


def _below_storage(contract: RunContract, folder: str) -> str:
    root = Path(contract.storage or "/").resolve()
    path = Path(folder).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
