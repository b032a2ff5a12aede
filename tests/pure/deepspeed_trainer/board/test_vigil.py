"""What the attempt does about heartbeats: orders for dumps, the failure of a hang, and notices."""

from typing import Any

from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.beats import Beat, Phase, Stack
from deepspeed_trainer.board.ranks import Verdict
from deepspeed_trainer.contract import Cause, Failure, HangPolicy
from tests.pure.deepspeed_trainer.makers import a_running_attempt, ended

POLICY = HangPolicy(min_s=60, factor=5, start_deadline_s=600)


def beat(steps: int = 5, phase: Phase = Phase.FORWARD, **more: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {"age_s": 0.0, "longest_s": {"forward": 1.0, "program": 1.0}}
    return Beat(phase=phase, step=steps, steps=steps, **{**usual, **more}).to_fact()


def stack(number: int, **more: Any) -> dict[str, Any]:
    told = Stack(**{"state": "S", "fingerprint": "f", "place": "train.py:60", **more})
    return {"kind": "stack", "number": number, "stack": told.to_wire()}


def a_hanging_attempt(**changes: Any) -> Attempt:
    """Rank 1 sleeps in its own code since second 100; rank 0 waits for it."""
    attempt = a_running_attempt(hang=POLICY, **changes)
    attempt.take(0, beat(), 100.0)
    attempt.take(1, beat(phase=Phase.PROGRAM), 100.0)
    return attempt


def dump(attempt: Attempt, now: float) -> None:
    """Ask for orders, bring what is owed, ask again."""
    for rank, waits_in in ((0, "all_gather"), (1, None)):
        order = attempt.orders(rank, now).dump
        assert order is not None
        attempt.take(rank, stack(order.number, waits_in=waits_in), now)
        assert attempt.orders(rank, now + 0.1).dump is None


def failure_at_the_end(attempt: Attempt) -> Failure | None:
    """What the attempt failed of, once its ranks were stopped."""
    for rank in (0, 1):
        attempt.note_end(rank, ended(-15, stopped=True), 175.0)
    attempt.conclude(Verdict(), 176.0)
    return attempt.progress().failure


def test_ranks_that_hung_start_again_out_of_the_attempts_budget() -> None:
    attempt = a_hanging_attempt(restarts_left=1)
    for now in (161.0, 172.6):
        attempt.orders(0, now - 0.6)
        dump(attempt, now)
        attempt.orders(0, now + 0.7)
    for rank in (0, 1):
        attempt.note_end(rank, ended(-9, stopped=True), 175.0)
    assert attempt.orders(0, 176.0, restart=0).go_again
    [restart] = attempt.progress().last_restarts
    assert (restart.cause, restart.rank) == (Cause.HANG, 1)


def test_a_hang_fails_the_attempt_and_stops_all_ranks() -> None:
    attempt = a_hanging_attempt()
    assert attempt.orders(0, 159.0).dump is None
    dump(attempt, 161.0)
    attempt.orders(0, 162.0)
    assert attempt.orders(0, 172.5).dump is not None
    dump(attempt, 172.6)
    assert attempt.orders(0, 173.5).must_stop
    assert attempt.orders(1, 173.5).must_stop
    failure = failure_at_the_end(attempt)
    assert failure is not None
    assert (failure.cause, failure.rank, failure.node) == (Cause.HANG, 1, "b")
    assert failure.message == (
        "rank 1 is outside the engine after step 5 (train.py:60), rank 0 waits in all_gather in"
        " forward of step 6; no rank has moved for 74 s (limit of program: 60 s); stacks of all"
        " ranks: team/bert/uid-1/run-1/attempt-1/stacks on the job's storage"
    )


def test_a_hang_stays_the_cause_when_the_ranks_die_of_it() -> None:
    attempt = a_hanging_attempt(storage=None)
    for now in (161.0, 172.6):
        attempt.orders(0, now - 0.6)
        dump(attempt, now)
        attempt.orders(0, now + 0.7)
    attempt.orders(0, 174.0)
    failure = failure_at_the_end(attempt)
    assert failure is not None
    assert failure.cause is Cause.HANG
    assert failure.message.endswith("the job has no storage: the stacks are in the workers' logs")


def test_heartbeats_end_the_search() -> None:
    attempt = a_hanging_attempt()
    dump(attempt, 161.0)
    attempt.take(1, beat(steps=6), 165.0)
    assert attempt.orders(0, 172.0).dump is None
    assert not attempt.orders(0, 200.0).must_stop


def test_a_rank_that_has_ended_keeps_nobody_from_being_looked_at() -> None:
    attempt = a_hanging_attempt(distributed=False)
    attempt.note_end(1, ended(0), 110.0)
    assert attempt.orders(0, 161.0).dump is not None


def test_ranks_without_heartbeats_are_told_of_once_they_have_had_their_time() -> None:
    attempt = a_running_attempt(hang=POLICY)
    attempt.take(0, beat(), 10.0)
    attempt.orders(0, 10.0)
    attempt.orders(0, 500.0)
    assert attempt.progress().notice is None
    attempt.orders(0, 700.0)
    notice = attempt.progress().notice
    assert notice is not None
    assert notice.startswith("progress unavailable on rank 1: no DeepSpeed engine")
    attempt.orders(0, 50_000.0)
    assert attempt.progress().failure is None


def test_a_slow_pod_is_a_notice_and_no_failure() -> None:
    attempt = a_running_attempt(hang=POLICY)
    for step in range(1, 200):
        now = float(step)
        attempt.take(1, beat(step, own_s=0.8 * step), now)
        attempt.take(0, beat(step, own_s=0.2 * step), now)
        attempt.orders(0, now)
    notice = attempt.progress().notice
    assert notice is not None
    assert notice.startswith("pod b (rank 1) is slow by itself")
    assert attempt.progress().failure is None
