"""How an attempt ends, what the next one uses, and what is cleaned up."""

from dataclasses import replace

import pytest

from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import Attempt, DeepSpeedJobStatus
from deepspeed_operator.decide.actions import DeleteCluster
from deepspeed_operator.decide.observed import Observed, RunState
from deepspeed_trainer.contract import HEAD_POD, Cause, Failure
from tests.support.builders import JobBuilder, a_job, a_pod, after, ended, observed
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


def preempted(node: str = "") -> tuple[JobBuilder, Observed]:
    """A second attempt is open, for worker 1 was told to go and still looks well.

    The job may have no restart that counts.
    """
    job, facts = running(a_job().with_restarts(0))
    told = Failure(Cause.PREEMPTED, "a pod was told to go", node=node or facts.pods[1].name)
    found = with_run(job, facts, RunState.FAILED, failure=told)
    job = job.with_status(decide(job, found, 5).status)
    return job.with_status(decide(job, found, 6).status), facts


def last_attempt(job: JobBuilder, facts: Observed, seconds: float) -> Attempt:
    """The newest attempt after one more pass."""
    after_it = job.with_status(decide(job, facts, seconds).status)
    return DeepSpeedJobStatus.model_validate(after_it.build().status).attempts[-1]


def test_a_run_is_not_handed_to_a_pod_that_was_told_to_go() -> None:
    # The kubelet of a node that shuts down deletes no pod: until it ends, it looks as ever.
    job, facts = preempted()
    assert last_attempt(job, facts, 7).state == "Opened"
    head, _, other = facts.pods
    fresh = a_pod(head.cluster, "worker", 3, created=after(8))
    replaced = replace(facts, pods=(head, other, fresh))
    assert last_attempt(job, replaced, 9).state == "Submitting"


def test_a_pod_of_the_attempt_before_that_ends_late_costs_nothing() -> None:
    job, facts = preempted()
    head, going, other = facts.pods
    late = replace(facts, pods=(head, replace(going, **ended(137, "Terminated")), other))
    assert last_attempt(job, late, 7).state == "Opened"
    # What KubeRay made in its place counts: left alone, it would be made for ever.
    fresh = a_pod(head.cluster, "worker", 3, created=after(8), **ended(1))
    failed = last_attempt(job, replace(facts, pods=(head, other, fresh)), 9)
    assert failed.cause == Reason.POD_FAILED


def test_a_head_that_ends_late_needs_a_new_cluster() -> None:
    # Its workers could not join another head.
    job, facts = preempted()
    head, *workers = facts.pods
    late = replace(facts, pods=(replace(head, **ended(137)), *workers))
    assert last_attempt(job, late, 7).cause == Reason.POD_FAILED


def test_a_head_that_was_told_to_go_is_followed_on_a_new_cluster_for_nothing() -> None:
    job, facts = preempted(HEAD_POD)
    status = DeepSpeedJobStatus.model_validate(job.build().status)
    first, second = status.attempts
    assert (second.state, status.restarts) == ("Opened", 0)
    assert first.cluster != second.cluster
    assert type(decide(job, facts, 7).actions[0]) is DeleteCluster


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
