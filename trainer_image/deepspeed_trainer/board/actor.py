"""The board: a detached actor on the head that ranks report to and the operator reads.

It outlives the driver, so that the end of a run whose driver was killed can still be read.  Here
are the calls alone and what is published after them; `recorded` does what they ask for.
"""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from deepspeed_trainer import leaving
from deepspeed_trainer.board.endpoint import ProgressServer
from deepspeed_trainer.board.ranks import Orders, Verdict
from deepspeed_trainer.board.recorded import RecordedAttempt
from deepspeed_trainer.contract import Cause, Failure, RunContract, RunPhase

MAX_BOARDS: Final = 32
PUBLISH_EVERY_S: Final = 0.2
"""How often what ranks tell is made an answer of; a thousand of them come within seconds."""
QUIET: Final = frozenset({"step", "beat", "stack"})
"""Facts that every rank brings all the time."""


class Board:
    """Boards of this head by submission id; runs as a Ray actor, one call at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._attempts: dict[str, RecordedAttempt] = {}
        self._answers: dict[str, str] = {}
        self._published_at: dict[str, float] = {}
        self._stale: set[str] = set()
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
            self._stale.discard(oldest)
        recorded = self._attempts[contract.submission_id] = RecordedAttempt(contract)
        self._publish(contract.submission_id)
        return not recorded.attempt.has_failed

    def set_phase(self, submission_id: str, phase: str) -> None:
        """The driver says where it is."""
        self._attempts[submission_id].attempt.phase = RunPhase(phase)
        self._publish(submission_id)

    def fail(self, submission_id: str, cause: str, message: str) -> None:
        """End an attempt from the driver's side: supervisors stop their ranks."""
        self._attempts[submission_id].attempt.fail(Failure(Cause(cause), message[:2048]))
        self._publish(submission_id)

    def conclude(self, submission_id: str, verdict: Verdict) -> str:
        """Close the board and return the final Progress as JSON."""
        self._attempts[submission_id].conclude(verdict)
        self._publish(submission_id)
        self._pod.release()
        return self._answers[submission_id]

    def note_exported(self, submission_id: str, path: str | None, problem: str) -> str:
        """Show where the newest checkpoint was exported to, or why it was not."""
        self._attempts[submission_id].note_exported(path, problem)
        self._publish(submission_id)
        return self._answers[submission_id]

    def note_metrics(self, submission_id: str, metrics: Mapping[str, str]) -> None:
        """Take figures that rank 0 gave to ray.train.report."""
        self._attempts[submission_id].attempt.note_metrics(0, metrics)
        self._publish(submission_id)

    def note_lost(self, submission_id: str, lost: Mapping[int, str], restart: int) -> None:
        """Take which ranks' workers died and why, where the driver is not told."""
        self._attempts[submission_id].attempt.note_lost(lost, restart)

    def end_round(self, submission_id: str, verdict: Verdict) -> float | None:
        """Return the seconds until a new group of workers may start, None when none may."""
        wait_s = self._attempts[submission_id].end_round(verdict)
        if wait_s is not None:
            self._publish(submission_id)
        return wait_s

    def note_override(self, submission_id: str, sentence: str) -> None:
        """Take which setting of a driver program gave way to the job's."""
        self._attempts[submission_id].note_override(sentence)
        self._publish(submission_id)

    def sync(
        self, submission_id: str, rank: int, restart: int, facts: Sequence[Mapping[str, Any]]
    ) -> Orders:
        """Take a rank's facts in their order and return its orders."""
        recorded = self._attempts[submission_id]
        recorded.note_head(self._pod.hold())
        begun = recorded.attempt.restarts
        orders = recorded.sync(rank, restart, facts)
        if recorded.attempt.restarts > begun:
            self._publish(submission_id)
        # The steps of other ranks are not shown, and there may be many of them.
        if rank == 0 or any(fact["kind"] not in QUIET for fact in facts):
            self._stale.add(submission_id)
        if submission_id in self._stale:
            self._publish_in_turn(submission_id)
        return orders

    def _publish_in_turn(self, submission_id: str) -> None:
        """Publish unless that was done a moment ago: another rank's call will do it."""
        if monotonic() - self._published_at[submission_id] >= PUBLISH_EVERY_S:
            self._publish(submission_id)

    def _publish(self, submission_id: str) -> None:
        self._stale.discard(submission_id)
        self._published_at[submission_id] = monotonic()
        progress = self._attempts[submission_id].attempt.progress()
        self._answers[submission_id] = progress.to_json()
