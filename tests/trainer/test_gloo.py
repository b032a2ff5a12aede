"""Hangs and slow ranks over gloo: real processes and collectives, neither Ray nor DeepSpeed.

The supervisor's part and the board's decision are the trainer's own, called in a loop here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest

from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.ranks import Orders, Verdict
from deepspeed_trainer.contract import Cause, Failure, HangPolicy
from deepspeed_trainer.hooks.wire import SUPERVISOR_ENV
from deepspeed_trainer.rank.vitals import Vitals
from tests.pure.deepspeed_trainer.makers import a_contract, ended, hello
from tests.trainer.raycluster import PROGRAMS

POLICY = HangPolicy(min_s=2, factor=2, start_deadline_s=30)
PATIENCE_S = 200
TICK_S = 0.3


class Pair:
    """Two ranks, their supervisors and their board."""

    def __init__(self, how: str, folder: Path) -> None:
        contract = a_contract(storage=str(folder / "storage"), hang=POLICY)
        self.folder = folder
        self.attempt = Attempt(contract, monotonic())
        self.steps = 0
        """Steps that rank 1 has done."""
        self._vitals = []
        self._processes = []
        for rank in range(2):
            own = folder / f"rank-{rank}"
            own.mkdir()
            self._vitals.append(Vitals(contract, rank, own))
            self._processes.append(self._start(rank, how, own))
            self.attempt.note_hello(rank, hello("ab"[rank]), monotonic())

    def watch(
        self, seconds: float = PATIENCE_S, *, until: Callable[[], object] = lambda: False
    ) -> Failure | None:
        """Talk for both ranks until a failure, or what is waited for, or the end of the time."""
        end = monotonic() + seconds
        while monotonic() < end and not until():
            for rank, vitals in enumerate(self._vitals):
                assert self._processes[rank].poll() is None, f"rank {rank} has ended"
                if self._talk(rank, vitals).must_stop:
                    return self._conclude()
            sleep(TICK_S)
        return None

    def _conclude(self) -> Failure | None:
        """Stop the ranks as they are told to, and let the board judge."""
        self.end()
        for rank in range(2):
            self.attempt.note_end(rank, ended(-9, stopped=True), monotonic())
        self.attempt.conclude(Verdict(), monotonic())
        return self.attempt.progress().failure

    def _talk(self, rank: int, vitals: Vitals) -> Orders:
        now = monotonic()
        for fact in vitals.facts():
            self.attempt.take(rank, fact, now)
            if rank == 1 and fact["kind"] == "beat":
                self.steps = fact["steps"]
        orders = self.attempt.orders(rank, now)
        vitals.obey(orders.dump)
        return orders

    @property
    def notice(self) -> str | None:
        """What people are told now."""
        return self.attempt.progress().notice

    def dumps(self) -> set[str]:
        """Names of the dumps that were kept."""
        return {file.parent.name for file in (self.folder / "storage").rglob("rank-*.txt")}

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, rank: int, how: str, own: Path) -> subprocess.Popen[bytes]:
        env = {"RANK": str(rank), SUPERVISOR_ENV: str(os.getpid())}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, str(PROGRAMS / "gloo.py"), str(own), how]
        return subprocess.Popen(command, env={**os.environ, **env})


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    found = Pair(request.param, tmp_path)
    yield found
    found.end()


HANGS = {
    "sleep": (
        "rank 1 is outside the engine after step 5 (gloo.py:",
        "), rank 0 waits in all_gather",
    ),
    "barrier": (
        "rank 1 is outside the engine after step 5 (gloo.py:",
        "), waiting in barrier, rank",
    ),
    "stop": ("rank 1 is outside the engine after step 5, stopped by a signal, rank 0 waits in", ""),
}


@pytest.mark.parametrize(("pair", "how"), [(how, how) for how in HANGS], indirect=["pair"])
def test_a_hang_is_found_and_the_rank_named(pair: Pair, how: str) -> None:
    failure = pair.watch()
    assert failure is not None
    assert failure.cause is Cause.HANG
    assert failure.rank == 1
    begins, holds = HANGS[how]
    assert failure.message.startswith(begins), failure.message
    assert holds in failure.message
    assert pair.dumps() == {"1-first", "1-second"}


@pytest.mark.parametrize("pair", ["short"], indirect=True)
def test_a_stop_for_a_while_is_looked_at_and_let_pass(pair: Pair) -> None:
    assert pair.watch(until=lambda: pair.steps > 50) is None
    assert pair.steps > 50, "the rank does not go on"
    assert "1-first" in pair.dumps(), "it was not long enough to be looked at"


@pytest.mark.parametrize("pair", ["throttle"], indirect=True)
def test_a_rank_at_half_speed_is_named(pair: Pair) -> None:
    assert pair.watch(until=lambda: pair.notice) is None
    assert (pair.notice or "").startswith("pod b (rank 1) is slow by itself")


@pytest.mark.parametrize("pair", ["even"], indirect=True)
def test_equal_ranks_raise_no_alarm(pair: Pair) -> None:
    assert pair.watch(45, until=lambda: pair.notice) is None
    assert pair.notice is None
    assert pair.steps > 30, "too few steps to compare"
