"""How an attempt ends, what the next one uses, and what is cleaned up."""

import pytest

from deepspeed_operator.api.names import Reason
from deepspeed_operator.decide.actions import DeleteCluster
from deepspeed_operator.decide.observed import RunState
from deepspeed_trainer.contract import Cause, Failure
from tests.support.builders import a_job, a_pod, observed
from tests.support.passes import condition, decide, running, status_of, with_run


def test_success_is_recorded_and_then_the_cluster_goes() -> None:
    job, facts = running(a_job(), step=3)
    facts = with_run(job, facts, RunState.SUCCEEDED, step=10)
    plan = decide(job, facts, 5)
    status = status_of(plan)
    assert plan.actions == ()
    assert condition(status, "Complete") == ("True", Reason.SUCCEEDED)
    assert condition(status, "Finished")[0] == "True"
    assert status.progress is not None
    assert status.progress.step == 10
    cleaning = decide(job.with_status(status), facts, 6)
    assert [type(a) for a in cleaning.actions] == [DeleteCluster]


def test_cluster_of_a_finished_job_stays_for_its_ttl() -> None:
    job, facts = running(a_job().with_spec(ttlSecondsAfterFinished=60))
    facts = with_run(job, facts, RunState.SUCCEEDED)
    job = job.with_status(decide(job, facts, 5).status)
    waiting = decide(job, facts, 30)
    assert waiting.actions == ()
    assert waiting.requeue_after_s == pytest.approx(35)
    assert [type(a) for a in decide(job, facts, 66).actions] == [DeleteCluster]


def test_failed_rank_is_named_and_another_attempt_uses_the_same_cluster() -> None:
    job, facts = running(a_job())
    failure = Failure(Cause.SIGNAL, "rank 1 was ended by SIGKILL", rank=1, exit_code=-9)
    facts = with_run(job, facts, RunState.FAILED, failure=failure)
    failed = decide(job, facts, 5)
    status = status_of(failed)
    assert status.failure is not None
    assert (status.failure.rank, status.failure.exit_code) == (1, -9)
    assert status.attempts[-1].cause == Cause.SIGNAL
    assert condition(status, "Failed")[0] == "False"
    job = job.with_status(status)
    assert decide(job, facts, 6).actions == (), "the backoff holds the next attempt"
    opening = decide(job, facts, 16)
    first, second = status_of(opening).attempts
    assert second.cluster == first.cluster
    assert second.submission_id != first.submission_id
    assert status_of(opening).restarts == 1


def test_lost_head_needs_a_new_cluster_and_the_old_one_goes() -> None:
    job, facts = running(a_job().with_restarts(1))
    gone = observed(clusters=facts.clusters, pods=facts.pods[1:])
    job = job.with_status(decide(job, gone, 5).status)
    opening = decide(job, gone, 6)
    assert [type(a) for a in opening.actions] == [DeleteCluster]
    first, second = status_of(opening).attempts
    assert first.cause == Reason.HEAD_LOST
    assert second.cluster != first.cluster


def test_replaced_head_is_a_lost_head() -> None:
    job, facts = running(a_job())
    other = a_pod(facts.pods[0].cluster, "head", 7)
    plan = decide(job, observed(clusters=facts.clusters, pods=(other, *facts.pods[1:])))
    assert status_of(plan).attempts[-1].cause == Reason.HEAD_LOST


def test_restart_budget_ends_the_job() -> None:
    job, facts = running(a_job().with_restarts(0))
    plan = decide(job, with_run(job, facts, RunState.FAILED), 5)
    status = status_of(plan)
    assert condition(status, "Failed") == ("True", Reason.RUN_FAILED)
    assert condition(status, "Stalled")[0] == "True"
    assert status.finish_time is not None


def test_cause_that_no_restart_can_help_ends_the_job_with_budget_left() -> None:
    job, facts = running(a_job().with_restarts(5))
    failure = Failure(Cause.IMPORT_FAILED, "there is no file train.py")
    plan = decide(job, with_run(job, facts, RunState.FAILED, failure=failure), 5)
    assert condition(status_of(plan), "Failed")[0] == "True"


def test_a_preemption_is_followed_at_once_and_counts_as_no_restart() -> None:
    job, facts = running(a_job().with_restarts(0, backoff_s=10))
    told = "pod w1 was told to go; all ranks saved at step 7 and stopped; no step is lost"
    facts = with_run(job, facts, RunState.FAILED, failure=Failure(Cause.PREEMPTED, told))
    job = job.with_status(decide(job, facts, 5).status)
    status = status_of(decide(job, facts, 6))
    first, second = status.attempts
    assert (first.cause, second.state, status.restarts) == (Cause.PREEMPTED, "Opened", 0)
    assert second.cluster == first.cluster
    assert status.failure is not None
    assert status.failure.message == told
    message = next(c.message for c in status.conditions if c.type == "Ready")
    assert "attempt 1 ended (Preempted); attempt 2, which counts as no restart" in message


def test_backoff_doubles_and_is_computed_from_status() -> None:
    job, facts = running(a_job().with_restarts(3, backoff_s=10))
    facts = with_run(job, facts, RunState.FAILED)
    job = job.with_status(decide(job, facts, 0).status)
    assert decide(job, facts, 4).requeue_after_s == pytest.approx(6)
    job = job.with_status(decide(job, facts, 11).status)
    pods = observed(clusters=facts.clusters, pods=facts.pods)
    job = job.with_status(decide(job, pods, 12).status)
    facts = with_run(job, facts, RunState.FAILED)
    job = job.with_status(decide(job, facts, 20).status)
    assert decide(job, facts, 30).requeue_after_s == pytest.approx(10)
