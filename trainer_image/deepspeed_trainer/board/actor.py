"""The board: a detached actor on the head that ranks report to and the operator reads.

It outlives the driver, so that the end of a run whose driver was killed can still be read.  It
turns facts into changes of the Attempt, writes manifests and events.jsonl to the job's storage
(the head mounts it too) and answers with orders.  What the facts mean is decided in `attempt`.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ray

from deepspeed_trainer import checkpoint
from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.endpoint import ProgressServer
from deepspeed_trainer.board.ranks import Orders, Verdict
from deepspeed_trainer.board.saves import Save
from deepspeed_trainer.contract import (
    BOARD_ACTOR,
    BOARD_NAMESPACE,
    PROGRESS_PORT,
    Cause,
    Failure,
    Manifest,
    ManifestFile,
    ResumedFrom,
    RunContract,
    RunPhase,
    attempt_dir,
)

MAX_BOARDS: Final = 32
TOKEN_ENV: Final = "RAY_AUTH_TOKEN"  # noqa: S105  the name of a variable
PORT_ENV: Final = "DSJOB_PROGRESS_PORT"
"""Another port than the contract's, for several clusters on one machine."""


class Board:
    """Boards of this head by submission id; runs as a Ray actor, one call at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._answers: dict[str, str] = {}
        self._server = ProgressServer(port, token, self._answers.get)
        self._server.start()

    def open(self, contract_json: str) -> None:
        """Start a board; the oldest one goes when there are too many."""
        contract = RunContract.from_json(contract_json)
        if len(self._attempts) >= MAX_BOARDS:
            oldest = next(iter(self._attempts))
            del self._attempts[oldest], self._answers[oldest]
        self._attempts[contract.submission_id] = Attempt(contract, _now())
        self._publish(contract.submission_id)

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
        begun = attempt.restarts
        for fact in facts if restart == begun else ():
            self._take(attempt, rank, fact)
        orders = attempt.orders(rank, _now(), restart)
        if attempt.restarts > begun:
            self._note_restart(attempt)
        # The steps of other ranks are not shown, and there may be many of them.
        if rank == 0 or any(fact["kind"] != "step" for fact in facts):
            self._publish(submission_id)
        return orders

    def give_up_save(self, submission_id: str, folder: str) -> None:
        """A folder is about to be saved to again: what it held is no checkpoint any more."""
        attempt = self._attempts[submission_id]
        given_up = attempt.saves.give_up(folder)
        if checkpoint.uncommit(Path(folder)) or given_up:
            self._log(attempt, "overwritten", folder=folder)

    def _note_restart(self, attempt: Attempt) -> None:
        why = attempt.progress().last_restarts[-1]
        named = {"cause": why.cause, "message": why.message, "rank": why.rank, "step": why.step}
        self._log(attempt, "restarted", **named)
        self._publish(attempt.contract.submission_id)

    def _take(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        match fact["kind"]:
            case "step":
                if attempt.note_figures(rank, fact, _now()):
                    self._log(attempt, "firstStep", rank=rank, step=fact["first"])
            case "loaded":
                self._take_loaded(attempt, rank, fact)
            case "hashed":
                self._take_hashed(attempt, rank, fact)
            case "hash_failed":
                attempt.saves.give_up(fact["folder"])
                self._log(attempt, "saveLost", rank=rank, message=fact["message"])
            case "end":
                attempt.note_end(rank, fact["end"], _now())
                self._log(attempt, "ended", rank=rank, exitCode=fact["end"]["exit_code"])
            case _:
                attempt.take(rank, fact, _now())

    def _take_loaded(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        folder = fact["folder"]
        self._log(
            attempt, "loaded", rank=rank, step=fact["step"], folder=folder, files=fact["files"]
        )
        if folder is not None:
            path = _below_storage(attempt.contract, folder)
            attempt.note_loaded(rank, ResumedFrom(fact["step"], path, fact["attempt"]))

    def _take_hashed(self, attempt: Attempt, rank: int, fact: Mapping[str, Any]) -> None:
        files = tuple(ManifestFile(**file) for file in fact["files"])
        names = {"rank": rank, "step": fact["step"], "folder": fact["folder"]}
        self._log(attempt, "saved", **names, files=fact["files"])
        save = attempt.saves.note_hashed(rank, fact["folder"], fact["number"], files)
        if save is not None:
            self._commit(attempt, save)

    def _commit(self, attempt: Attempt, save: Save) -> None:
        contract, folder = attempt.contract, Path(save.folder)
        files = [file for rank in sorted(save.files) for file in save.files[rank]]
        if not files:
            return  # figures were reported and no checkpoint
        try:
            manifest = Manifest(
                step=save.step,
                tag=save.tag,
                world_size=contract.world_size,
                zero_stage=save.zero_stage,
                attempt=contract.attempt,
                time=_now(),
                versions={**attempt.versions, "ray": ray.__version__},
                files=checkpoint.unite(folder, files),
            )
            checkpoint.commit(folder, manifest)
        except OSError as error:
            # Training goes on: this checkpoint does not count, the one before still does.
            self._log(attempt, "saveLost", message=f"manifest of {save.folder}: {error}")
            return
        attempt.note_committed(save, _below_storage(contract, save.folder), manifest.time)
        self._log(attempt, "committed", step=save.step, tag=save.tag, folder=save.folder)

    def _publish(self, submission_id: str) -> None:
        self._answers[submission_id] = self._attempts[submission_id].progress().to_json()

    def _log(self, attempt: Attempt, event: str, **details: Any) -> None:
        """Add a line to the attempt's events.jsonl, when there is storage."""
        contract = attempt.contract
        round_of_it = {"restart": attempt.restarts} if attempt.restarts else {}
        line = json.dumps({"time": _now(), "event": event, **round_of_it, **details})
        print(line, flush=True)  # noqa: T201  the actor's log in Ray's session folder
        if contract.storage is None:
            return
        folder = Path(attempt_dir(contract.storage, contract.job, contract.run, contract.attempt))
        try:
            with (folder / "events.jsonl").open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            print(f"events.jsonl in {folder}: {error}", flush=True)  # noqa: T201  see above


def open_board() -> Any:
    """Return the actor of this cluster's board, made on the head when there is none."""
    actor = ray.remote(Board).options(
        name=BOARD_ACTOR,
        namespace=BOARD_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
    )
    port = int(os.environ.get(PORT_ENV, PROGRESS_PORT))
    return actor.remote(port, os.environ.get(TOKEN_ENV, ""))


def find_board() -> Any:
    """Return the board's actor; it must have been opened by the driver."""
    return ray.get_actor(BOARD_ACTOR, namespace=BOARD_NAMESPACE)


def _now() -> float:
    return time.time()  # noqa: TID251  facts carry the wall clock of the head


def _below_storage(contract: RunContract, folder: str) -> str:
    root = Path(contract.storage or "/").resolve()
    path = Path(folder).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
