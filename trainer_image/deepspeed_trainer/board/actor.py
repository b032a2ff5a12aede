"""The board: a detached actor on the head that ranks report to and the operator reads.

It outlives the driver, so that the end of a run whose driver was killed can still be read.  Here
are the calls alone; `recorded` does what they ask for.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from deepspeed_trainer import leaving
from deepspeed_trainer.board.endpoint import ProgressServer
from deepspeed_trainer.board.ranks import Orders, Verdict
from deepspeed_trainer.board.recorded import RecordedAttempt
from deepspeed_trainer.contract import Cause, Failure, RunContract, RunPhase

MAX_BOARDS: Final = 32
BUSY_S: Final = 1.0
"""How long the operator waits for a board that is at the storage; then it gets the last answer."""


class Board:
    """Boards of this head by submission id; runs as a Ray actor, one call at a time.

    What the operator reads is made when it asks: a thousand ranks tell more than anybody reads.
    """

    def __init__(self, port: int, token: str) -> None:
        self._attempts: dict[str, RecordedAttempt] = {}
        self._answers: dict[str, str] = {}
        self._stale: set[str] = set()
        self._lock = threading.Lock()
        self._pod = leaving.HeldPod(leaving.find_folder())
        self._server = ProgressServer(port, token, self.answer)
        self._server.start()

    def open(self, contract_json: str) -> bool:
        """Start a board and open the attempt's epoch; False when the storage does not let it.

        The oldest board goes when there are too many.
        """
        contract = RunContract.from_json(contract_json)
        with self._lock:
            if len(self._attempts) >= MAX_BOARDS:
                oldest = next(iter(self._attempts))
                del self._attempts[oldest], self._answers[oldest]
                self._stale.discard(oldest)
            recorded = self._attempts[contract.submission_id] = RecordedAttempt(contract)
            self._make_answer(contract.submission_id)
            return not recorded.attempt.has_failed

    def set_phase(self, submission_id: str, phase: str) -> None:
        """The driver says where it is."""
        with self._changing(submission_id) as recorded:
            recorded.attempt.phase = RunPhase(phase)

    def fail(self, submission_id: str, cause: str, message: str) -> None:
        """End an attempt from the driver's side: supervisors stop their ranks."""
        with self._changing(submission_id) as recorded:
            recorded.attempt.fail(Failure(Cause(cause), message[:2048]))

    def conclude(self, submission_id: str, verdict: Verdict) -> str:
        """Close the board and return the final Progress as JSON."""
        with self._changing(submission_id) as recorded:
            recorded.conclude(verdict)
            self._make_answer(submission_id)
            self._pod.release()
            return self._answers[submission_id]

    def note_exported(self, submission_id: str, path: str | None, problem: str) -> str:
        """Show where the newest checkpoint was exported to, or why it was not."""
        with self._changing(submission_id) as recorded:
            recorded.note_exported(path, problem)
            self._make_answer(submission_id)
            return self._answers[submission_id]

    def note_metrics(self, submission_id: str, metrics: Mapping[str, str]) -> None:
        """Take figures that rank 0 gave to ray.train.report."""
        with self._changing(submission_id) as recorded:
            recorded.attempt.note_metrics(0, metrics)

    def note_lost(self, submission_id: str, lost: Mapping[int, str], restart: int) -> None:
        """Take which ranks' workers died and why, where the driver is not told."""
        with self._changing(submission_id) as recorded:
            recorded.attempt.note_lost(lost, restart)

    def end_round(self, submission_id: str, verdict: Verdict) -> float | None:
        """Return the seconds until a new group of workers may start, None when none may."""
        with self._changing(submission_id) as recorded:
            return recorded.end_round(verdict)

    def note_override(self, submission_id: str, sentence: str) -> None:
        """Take which setting of a driver program gave way to the job's."""
        with self._changing(submission_id) as recorded:
            recorded.note_override(sentence)

    def sync(
        self, submission_id: str, rank: int, restart: int, facts: Sequence[Mapping[str, Any]]
    ) -> Orders:
        """Take a rank's facts in their order and return its orders."""
        with self._changing(submission_id) as recorded:
            recorded.note_head(self._pod.hold())
            return recorded.sync(rank, restart, facts)

    def answer(self, submission_id: str) -> str | None:
        """Return what the operator reads, from any thread; None for a run that is not known."""
        if self._lock.acquire(timeout=BUSY_S):
            try:
                if submission_id in self._stale:
                    self._make_answer(submission_id)
            finally:
                self._lock.release()
        return self._answers.get(submission_id)

    @contextmanager
    def _changing(self, submission_id: str) -> Iterator[RecordedAttempt]:
        """Give an attempt to a call that may change it."""
        with self._lock:
            recorded = self._attempts[submission_id]
            self._stale.add(submission_id)
            yield recorded

    def _make_answer(self, submission_id: str) -> None:
        progress = self._attempts[submission_id].attempt.progress()
        self._answers[submission_id] = progress.to_json()
        self._stale.discard(submission_id)
