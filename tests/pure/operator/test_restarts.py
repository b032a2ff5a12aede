"""Restarts of ranks inside an attempt are handed out, counted once, and told."""

from dataclasses import replace

import pytest

from deepspeed_operator.api.names import Reason
from deepspeed_operator.decide.actions import SubmitRun
from deepspeed_operator.decide.observed import Observed, RunState
from deepspeed_trainer.contract import (
    CONTRACT_ENV,
    Cause,
    Failure,
    Restart,
    RunContract,
)
from tests.support.builders import JobBuilder, a_job
from tests.support.passes import condition, decide, running, status_of, submitting, with_run

KILLED = Restart(1000.0, Cause.SIGNAL, "rank 1 on b: killed by SIGKILL", 1, "b", 7)
AGAIN = Failure(Cause.SIGNAL, "killed again", rank=0)


def told(
    job: JobBuilder, facts: Observed, restarts: int, state: RunState = RunState.RUNNING
) -> Observed:
    """The same facts with a head that tells of so many restarts."""
    failure = AGAIN if state is RunState.FAILED else None
    facts = with_run(job, facts, state, step=3, failure=failure)
    run = facts.run
    assert run is not None
    assert run.progress is not None
    shown = (KILLED,) if restarts else ()
    progress = replace(run.progress, restarts=restarts, last_restarts=shown)
    return replace(facts, run=replace(run, progress=progress))


def handed_out(job: JobBuilder, facts: Observed, seconds: float = 0) -> RunContract:
    """The contract of the run that a pass hands over."""
    plan = decide(job, facts, seconds)
    [submit] = [action for action in plan.actions if isinstance(action, SubmitRun)]
    return RunContract.from_json(submit.env[CONTRACT_ENV])


def test_the_first_attempt_is_handed_the_whole_budget() -> None:
    contract = handed_out(*submitting(a_job().with_restarts(3, backoff_s=7)))
    assert (contract.restarts_left, contract.backoff_s) == (3, 7)


def test_a_restart_is_counted_shown_and_told_once() -> None:
    job, facts = running(a_job().with_restarts(3), step=1)
    plan = decide(job, told(job, facts, 1), 5)
    status = status_of(plan)
    assert (status.restarts, status.attempts[-1].restarts) == (1, 1)
    assert status.failure is not None
    assert (status.failure.cause, status.failure.rank) == (Cause.SIGNAL, 1)
    [event] = plan.events
    assert event.reason is Reason.RANKS_RESTARTED
    assert "restart 1 of 3" in event.message
    assert "step 7" in event.message
    assert condition(status, "Running")[0] == "True"
    job = job.with_status(status)
    again = decide(job, told(job, facts, 1), 6)
    assert (again.status, again.events) == (None, ())


def test_restarts_that_came_between_two_looks_are_all_counted_by_one_event() -> None:
    job, facts = running(a_job().with_restarts(5), step=1)
    job = job.with_status(decide(job, told(job, facts, 1), 5).status)
    plan = decide(job, told(job, facts, 4), 6)
    assert (status_of(plan).restarts, len(plan.events)) == (4, 1)


def test_a_board_that_forgot_takes_nothing_back() -> None:
    job, facts = running(a_job().with_restarts(5), step=1)
    job = job.with_status(decide(job, told(job, facts, 2), 5).status)
    assert decide(job, told(job, facts, 0), 6).status is None


def test_the_count_is_written_only_over_what_was_read() -> None:
    job, facts = running(a_job().with_restarts(3), step=1)
    assert decide(job, told(job, facts, 1), 5).locked


def test_an_attempt_that_used_up_the_budget_is_the_last_one() -> None:
    job, facts = running(a_job().with_restarts(2), step=1)
    plan = decide(job, told(job, facts, 2, RunState.FAILED), 5)
    status = status_of(plan)
    assert condition(status, "Failed") == ("True", Reason.RUN_FAILED)
    assert (status.restarts, status.attempts[-1].restarts) == (2, 2)
    assert status.failure is not None
    assert status.failure.message == "killed again"


def test_what_an_attempt_left_of_the_budget_goes_to_the_next() -> None:
    job, facts = running(a_job().with_restarts(5), step=1)
    job = job.with_status(decide(job, told(job, facts, 2, RunState.FAILED), 5).status)
    assert job.status["restarts"] == 2
    job = job.with_status(decide(job, facts, 6).status)
    assert job.status["restarts"] == 3, "the attempt itself is one more"
    job = job.with_status(decide(job, facts, 7).status)
    assert handed_out(job, facts, 8).restarts_left == 2
    running_again = with_run(job, facts, RunState.RUNNING, step=4)
    status = status_of(decide(job, running_again, 9))
    assert (status.restarts, status.attempts[-1].restarts) == (3, 0)


def test_the_wait_before_an_attempt_grows_with_every_restart() -> None:
    job, facts = running(a_job().with_restarts(5, backoff_s=10), step=1)
    facts = told(job, facts, 2, RunState.FAILED)
    job = job.with_status(decide(job, facts, 0).status)
    assert decide(job, facts, 0).requeue_after_s == pytest.approx(40)


def test_success_keeps_the_count() -> None:
    job, facts = running(a_job().with_restarts(5), step=1)
    status = status_of(decide(job, told(job, facts, 2, RunState.SUCCEEDED), 5))
    assert (status.restarts, status.attempts[-1].restarts) == (2, 2)
    assert status.failure is None


def test_a_lowered_budget_gives_the_next_attempt_nothing() -> None:
    job, facts = running(a_job().with_restarts(5), step=1)
    job = job.with_status(decide(job, told(job, facts, 3), 5).status)
    plan = decide(job.with_restarts(1), told(job, facts, 3, RunState.FAILED), 6)
    assert condition(status_of(plan), "Failed")[0] == "True"
