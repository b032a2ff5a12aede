"""Ranks that fail in healthy pods start again inside the attempt, out of its budget."""

from typing import Any

import pytest

from deepspeed_trainer.board.attempt import SETTLE_S, Attempt
from deepspeed_trainer.board.ranks import Verdict
from deepspeed_trainer.contract import (
    REMEDIES,
    Cause,
    Entrypoint,
    EntrypointKind,
    Failure,
    Progress,
    Remedy,
    RunPhase,
)
from tests.pure.deepspeed_trainer.makers import (
    a_closed_save,
    a_running_attempt,
    begin,
    ended,
    hello,
)

FUNCTION = Entrypoint(EntrypointKind.FUNCTION, "pkg:train")


def fail_round(attempt: Attempt, now: float, *exit_codes: int) -> None:
    """End both ranks of a round: by default a kill, and the echo of it in the other."""
    first, second = exit_codes or (1, -9)
    attempt.note_end(1, ended(second), now)
    attempt.note_end(0, ended(first, tail=("Connection closed by peer",)), now)


def come_back(attempt: Attempt, now: float, port: int = 10) -> None:
    """Both supervisors say hello with a new port."""
    for rank, pod in enumerate("ab"):
        attempt.note_hello(rank, {**hello(pod), "port": port}, now)
        attempt.note_hook(rank, None)
    begin(attempt)


def cause_at_the_end(attempt: Attempt) -> Cause | None:
    attempt.conclude(Verdict(), 99.0)
    failure = attempt.progress().failure
    return failure.cause if failure else None


def test_a_killed_rank_is_followed_by_another_round() -> None:
    attempt = a_running_attempt(restarts_left=1)
    attempt.note_figures(1, {"done": 7, "begun": 8}, 4.0)
    fail_round(attempt, 5.0)
    orders = attempt.orders(0, 6.0, restart=0)
    assert (orders.go_again, orders.may_leave, orders.launch) == (True, False, None)
    assert attempt.phase is RunPhase.RESTARTING
    progress = attempt.progress()
    assert progress.failure is None
    assert progress.restarts == 1
    [restart] = progress.last_restarts
    assert (restart.cause, restart.rank, restart.node) == (Cause.SIGNAL, 1, "b")
    assert (restart.time, restart.step) == (6.0, 7)
    assert "SIGKILL" in restart.message
    assert Progress.from_json(progress.to_json()) == progress


def test_every_rank_of_the_round_before_is_told_to_come_again() -> None:
    attempt = a_running_attempt(restarts_left=1)
    fail_round(attempt, 5.0)
    assert attempt.orders(0, 6.0, restart=0).go_again
    assert attempt.orders(1, 6.1, restart=0).go_again
    assert attempt.restarts == 1


def test_each_round_has_launches_of_its_own() -> None:
    attempt = a_running_attempt(restarts_left=1)
    fail_round(attempt, 5.0)
    attempt.orders(0, 6.0, restart=0)
    attempt.note_hello(0, {**hello("a"), "port": 77}, 6.0)
    assert attempt.orders(0, 6.0, restart=1).launch is None, "rank 1 is not back yet"
    attempt.note_hello(1, hello("b"), 6.0)
    begin(attempt)
    launch = attempt.orders(1, 6.0, restart=1).launch
    assert launch is not None
    assert launch.master_port == 77
    assert attempt.phase is RunPhase.RUNNING


def test_a_spent_budget_ends_the_attempt_with_the_last_cause() -> None:
    attempt = a_running_attempt(restarts_left=1)
    fail_round(attempt, 5.0)
    assert attempt.orders(0, 6.0, restart=0).go_again
    come_back(attempt, 7.0)
    attempt.note_end(0, ended(1, tail=("Traceback (most recent call last):", "KeyError: 1")), 8.0)
    attempt.note_end(1, ended(-15, stopped=True), 8.0)
    assert attempt.orders(0, 9.0, restart=1).may_leave
    assert attempt.orders(1, 9.0, restart=1).may_leave
    assert cause_at_the_end(attempt) is Cause.USER_ERROR
    assert attempt.progress().restarts == 1


def test_without_a_budget_the_first_failure_ends_the_attempt() -> None:
    attempt = a_running_attempt()
    fail_round(attempt, 5.0)
    assert attempt.orders(0, 6.0, restart=0).may_leave
    assert cause_at_the_end(attempt) is Cause.SIGNAL


def test_ranks_that_ended_well_do_not_start_again() -> None:
    attempt = a_running_attempt(restarts_left=3)
    for rank in (0, 1):
        attempt.note_group(rank, 2)
        attempt.note_end(rank, ended(0), 1.0)
    orders = attempt.orders(0, 2.0, restart=0)
    assert (orders.go_again, orders.may_leave) == (False, True)


def import_fails(attempt: Attempt) -> None:
    tail = ("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'x'")
    for rank in (0, 1):
        attempt.note_end(rank, ended(1, tail=tail), 1.0)


def no_group_is_made(attempt: Attempt) -> None:
    for rank in (0, 1):
        attempt.note_end(rank, ended(0), 1.0)


def group_is_too_small(attempt: Attempt) -> None:
    attempt.note_group(0, 1)
    fail_round(attempt, 1.0, -15, -15)


def run_is_stopped(attempt: Attempt) -> None:
    attempt.fail(Failure(Cause.STOPPED, "asked to stop"))
    fail_round(attempt, 1.0, -15, -15)


FINAL = {
    Cause.IMPORT_FAILED: import_fails,
    Cause.NO_PROCESS_GROUP: no_group_is_made,
    Cause.WRONG_WORLD_SIZE: group_is_too_small,
    Cause.STOPPED: run_is_stopped,
}


@pytest.mark.parametrize("cause", FINAL)
def test_a_cause_that_other_ranks_cannot_mend_ends_the_attempt(cause: Cause) -> None:
    attempt = a_running_attempt(restarts_left=3)
    FINAL[cause](attempt)
    orders = attempt.orders(0, 2.0, restart=0)
    assert (orders.go_again, orders.may_leave) == (False, True)
    assert cause_at_the_end(attempt) is cause
    assert REMEDIES[cause] is not Remedy.RANKS


def test_a_lost_supervisor_ends_the_attempt() -> None:
    attempt = a_running_attempt(restarts_left=3)
    attempt.note_end(0, ended(1, tail=("Connection closed by peer",)), 1.0)
    assert not attempt.orders(0, 60.0, restart=0).go_again
    attempt.conclude(Verdict(lost={1: "the actor died"}), 61.0)
    failure = attempt.progress().failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.POD_LOST, 1)


def test_a_supervisor_that_is_lost_between_two_rounds_is_named_with_its_pod() -> None:
    attempt = a_running_attempt(restarts_left=3)
    fail_round(attempt, 5.0)
    assert attempt.orders(0, 6.0, restart=0).go_again
    attempt.note_hello(0, hello("a"), 6.5)
    attempt.conclude(Verdict(lost={1: "the actor died"}), 7.0)
    failure = attempt.progress().failure
    assert failure is not None
    assert (failure.cause, failure.rank, failure.node) == (Cause.POD_LOST, 1, "b")


def test_the_next_round_begins_when_complete_saves_are_committed() -> None:
    attempt = a_running_attempt(restarts_left=1)
    for rank in (0, 1):
        attempt.saves.note_closed(rank, a_closed_save(1))
    fail_round(attempt, 5.0)
    waiting = attempt.orders(0, 6.0, restart=0)
    assert (waiting.go_again, waiting.may_leave) == (False, False)
    for rank in (0, 1):
        attempt.saves.note_brought(rank, 1, ())
    assert attempt.orders(0, 7.0, restart=0).go_again


def test_a_save_that_a_killed_rank_left_open_does_not_reach_the_next_round() -> None:
    """Its folder is saved to again, and both ranks count that as their first save to it."""
    attempt = a_running_attempt(restarts_left=1)
    attempt.saves.note_closed(0, a_closed_save(1))
    attempt.saves.note_brought(0, 1, ())
    fail_round(attempt, 5.0)
    assert attempt.orders(0, 6.0, restart=0).go_again
    come_back(attempt, 7.0)
    for rank in (0, 1):
        attempt.saves.note_closed(rank, a_closed_save(1))
    assert attempt.saves.note_brought(1, 1, ()) is None, "rank 0 has not hashed it anew"
    assert attempt.saves.note_brought(0, 1, ()) is not None


def test_the_first_restart_is_immediate_and_each_further_one_waits_twice_as_long() -> None:
    attempt = a_running_attempt(restarts_left=4, backoff_s=10)
    now = 0.0
    waits = []
    for number in range(4):
        fail_round(attempt, now)
        assert attempt.orders(0, now, restart=number).go_again
        come_back(attempt, now)
        begun = now
        while attempt.orders(0, now, restart=number + 1).launch is None:
            assert attempt.phase is RunPhase.RESTARTING
            now += 1.0
        waits.append(now - begun)
    assert waits == [0.0, 10.0, 20.0, 40.0]


def test_a_stop_reaches_ranks_that_wait_for_their_next_start() -> None:
    attempt = a_running_attempt(restarts_left=2, backoff_s=600)
    for number, now in enumerate((1.0, 2.0)):
        fail_round(attempt, now)
        attempt.orders(0, now, restart=number)
        come_back(attempt, now)
    attempt.fail(Failure(Cause.STOPPED, "asked to stop"))
    orders = attempt.orders(0, 3.0, restart=2)
    assert (orders.must_stop, orders.launch) == (True, None)


def test_a_rank_that_leaves_early_is_a_cause_for_another_round() -> None:
    attempt = a_running_attempt(restarts_left=1)
    attempt.note_figures(0, {"done": 4, "begun": 5}, 9.0)
    attempt.note_figures(1, {"done": 4, "begun": 4}, 9.0)
    attempt.note_end(1, ended(0), 10.0)
    assert attempt.orders(0, 10.0 + SETTLE_S, restart=0).must_stop
    attempt.note_end(0, ended(-15, stopped=True), 15.0)
    assert attempt.orders(0, 15.0, restart=0).go_again
    assert attempt.progress().last_restarts[0].cause is Cause.EARLY_EXIT
    come_back(attempt, 16.0)
    assert not attempt.orders(0, 30.0, restart=1).must_stop, "the cause belongs to its round"


def test_figures_stay_until_the_next_round_has_its_own() -> None:
    attempt = a_running_attempt(restarts_left=1)
    attempt.note_figures(0, {"done": 7, "begun": 7, "first": 1, "loss": "0.5"}, 4.0)
    fail_round(attempt, 5.0)
    attempt.orders(0, 6.0, restart=0)
    progress = attempt.progress()
    assert (progress.step, progress.first_step, progress.loss) == (7, 1, "0.5")
    come_back(attempt, 7.0)
    assert attempt.note_figures(0, {"done": 6, "begun": 6, "first": 6}, 8.0)
    progress = attempt.progress()
    assert (progress.step, progress.first_step) == (6, 6)


def test_only_the_last_eight_restarts_are_shown_and_all_are_counted() -> None:
    attempt = a_running_attempt(restarts_left=20, backoff_s=0)
    for number in range(12):
        fail_round(attempt, float(number))
        attempt.orders(0, float(number), restart=number)
        come_back(attempt, float(number))
    progress = attempt.progress()
    assert progress.restarts == 12
    assert [restart.time for restart in progress.last_restarts] == [float(n) for n in range(4, 12)]
    assert Progress.from_json(progress.to_json()) == progress


def lose(attempt: Attempt) -> float | None:
    return attempt.end_round(Verdict(lost={1: "the worker died"}), 5.0)


def test_a_worker_that_is_the_rank_may_die_and_be_followed_by_another_group() -> None:
    attempt = a_running_attempt(restarts_left=1, entrypoint=FUNCTION)
    attempt.note_end(0, ended(1, tail=("Connection closed by peer",)), 1.0)
    assert not attempt.orders(0, 2.0, restart=0).go_again, "Ray ends the group, not the board"
    assert lose(attempt) == 0.0
    assert attempt.progress().last_restarts[0].cause is Cause.POD_LOST
    assert attempt.orders(1, 6.0, restart=0).must_stop, "what is left of the group before"


@pytest.mark.parametrize(
    "fields",
    [{"restarts_left": 0, "entrypoint": FUNCTION}, {"restarts_left": 1}],
    ids=["no budget", "a supervisor"],
)
def test_a_group_of_workers_is_not_followed_by_another(fields: dict[str, Any]) -> None:
    assert lose(a_running_attempt(**fields)) is None


def test_the_board_begins_no_round_for_workers_that_ray_has_to_start() -> None:
    attempt = a_running_attempt(restarts_left=3, entrypoint=FUNCTION)
    fail_round(attempt, 5.0)
    orders = attempt.orders(0, 6.0, restart=0)
    assert (orders.go_again, orders.may_leave, attempt.restarts) == (False, True, 0)


def test_a_stopped_group_of_workers_is_not_followed_by_another() -> None:
    attempt = a_running_attempt(restarts_left=3, entrypoint=FUNCTION)
    attempt.fail(Failure(Cause.STOPPED, "asked to stop"))
    assert lose(attempt) is None


def test_a_group_of_workers_that_ended_well_is_not_followed_by_another() -> None:
    attempt = a_running_attempt(restarts_left=3, entrypoint=FUNCTION)
    for rank in (0, 1):
        attempt.note_group(rank, 2)
        attempt.note_end(rank, ended(0), 1.0)
    assert attempt.end_round(Verdict(), 2.0) is None


def test_a_word_about_lost_workers_that_comes_late_is_not_about_the_next_round() -> None:
    attempt = a_running_attempt(restarts_left=3, entrypoint=FUNCTION)
    lose(attempt)
    come_back(attempt, 6.0)
    attempt.note_lost({0: "the worker died"}, restart=0)
    attempt.conclude(Verdict(error="the controller failed"), 60.0)
    failure = attempt.progress().failure
    assert failure is not None
    assert failure.cause is Cause.TRAINER_ERROR
