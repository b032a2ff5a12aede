"""A supervisor that is told to stop before its program may start: the board, in this process.

Ray is imported and not started; what passes between supervisor and board is handed over directly.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from deepspeed_trainer.board.attempt import SETTLE_S, Attempt
from deepspeed_trainer.board.ranks import Orders, Verdict
from deepspeed_trainer.contract import Cause, Entrypoint, EntrypointKind, RunContract
from deepspeed_trainer.rank import function, worker
from deepspeed_trainer.rank.facts import Fact
from deepspeed_trainer.rank.worker import Supervisor
from tests.pure.deepspeed_trainer.makers import a_running_attempt, ended, hello

LATER = SETTLE_S + 1.0
Run = Callable[..., bool]


class DirectLink:
    """A line to an attempt whose ranks have nothing to continue from."""

    def __init__(self, attempt: Attempt, rank: int, restart: int, begun_at: float) -> None:
        self._attempt, self._rank, self._restart = attempt, rank, restart
        self._now = begun_at

    def sync(self, facts: Sequence[Fact]) -> Orders:
        now, self._now = self._now, LATER
        for fact in facts if self._restart == self._attempt.restarts else ():
            if fact["kind"] == "end":
                self._attempt.note_end(self._rank, fact["end"], now)
            elif fact["kind"] != "hello":
                self._attempt.take(self._rank, fact, now)
        return replace(self._attempt.orders(self._rank, now, self._restart), resume=None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a rank's supervisor to its end; it returns whether it is to run again."""
    monkeypatch.setattr(worker, "hello", lambda _port: hello("b"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run_supervisor(attempt: Attempt, rank: int, begun_at: float = LATER) -> bool:
        def open_link(_contract: RunContract, of: int, restart: int) -> DirectLink:
            return DirectLink(attempt, of, restart, begun_at)

        monkeypatch.setattr(worker, "BoardLink", open_link)
        supervisor = Supervisor(attempt.contract, rank, attempt.restarts)
        try:
            return supervisor.run()
        finally:
            supervisor.close()

    return run_supervisor


def test_a_rank_that_comes_for_its_start_too_late_lets_the_first_one_leave(run: Run) -> None:
    attempt = a_running_attempt(storage=None)
    attempt.note_verdict(0, Cause.PLACEMENT, "2 cores for 4 ranks")
    attempt.note_end(0, ended(1), 0.5)
    assert not attempt.orders(0, LATER).may_leave
    assert not run(attempt, 1)
    assert attempt.orders(0, LATER).may_leave
    attempt.conclude(Verdict(), LATER)
    failure = attempt.progress().failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.PLACEMENT, 0)


def test_a_rank_that_comes_for_its_start_too_late_begins_the_next_round(run: Run) -> None:
    attempt = a_running_attempt(storage=None, restarts_left=1)
    attempt.note_end(0, ended(-9), 0.0)
    assert run(attempt, 1)
    assert [(last.cause, last.rank) for last in attempt.progress().last_restarts] == [
        (Cause.SIGNAL, 0)
    ]


@pytest.mark.parametrize("rank", [2, 3])
def test_the_ranks_of_a_node_do_not_wait_for_one_that_came_too_late(run: Run, rank: int) -> None:
    """One had its launch before the job was to stop, its neighbour had none and never will."""
    command = Entrypoint(EntrypointKind.COMMAND, "true", per="Node")
    attempt = a_running_attempt(
        ("a", "a", "b", "b"), ranks_per_node=2, entrypoint=command, storage=None
    )
    for other in {0, 1, 2, 3} - {rank}:
        attempt.note_end(other, ended(1), 0.5)
    assert attempt.orders(rank, 1.0).launch is not None
    assert not run(attempt, rank, begun_at=1.0)
    assert attempt.orders(0, LATER).may_leave


def test_a_function_that_is_not_let_start_tells_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = a_running_attempt(storage=None)
    attempt.note_end(0, ended(1), 0.5)
    monkeypatch.setattr(function, "hello", lambda _port: hello("b"))
    monkeypatch.setattr(function, "PatchOnImport", MagicMock())
    monkeypatch.setattr(function, "BoardLink", lambda *_: DirectLink(attempt, 1, 0, LATER))
    with pytest.raises(RuntimeError, match="does not let this attempt start"):
        function._Agent(attempt.contract, 1, 0).wait_for_start()
    assert attempt.orders(0, LATER).may_leave
