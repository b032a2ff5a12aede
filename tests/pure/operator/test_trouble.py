"""What pods say while a job waits, and what becomes of it: a reason, a verdict, a repair."""

from deepspeed_operator.api.names import Reason
from deepspeed_operator.decide.actions import DeleteCluster, EnsureToken
from deepspeed_operator.decide.observed import PodFacts, RunState
from deepspeed_trainer.contract import REFUSED, UNAVAILABLE, CodeFault, CodeReport
from tests.support.builders import a_cluster, a_job, a_pod, ended, observed, ready_pods, waiting_for
from tests.support.passes import (
    cluster_name,
    condition,
    decide,
    opened,
    running,
    status_of,
    with_run,
)

FROM_GIT = {"git": {"url": "https://git.example/team/code.git"}}


def test_pull_that_goes_on_failing_ends_the_job_after_a_minute() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = (a_pod(name, "head", **waiting_for("ImagePullBackOff", "not found")),)
    facts = observed(clusters=(a_cluster(name),), pods=pods)
    seen = decide(job, facts, 1)
    assert condition(status_of(seen), "Ready") == ("False", Reason.IMAGE_PULL_FAILING)
    job = job.with_status(seen.status)
    assert decide(job, facts, 40).status is None
    verdict = decide(job, facts, 62)
    assert condition(status_of(verdict), "Failed") == ("True", Reason.IMAGE_PULL_FAILED)
    gone = decide(job.with_status(verdict.status), facts, 62)
    assert [type(a) for a in gone.actions] == [DeleteCluster]


def test_pull_that_recovers_is_forgotten() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    failing = (a_pod(name, "head", **waiting_for("ErrImagePull")),)
    cluster = (a_cluster(name),)
    job = job.with_status(decide(job, observed(clusters=cluster, pods=failing), 1).status)
    pulling = (a_pod(name, "head", **waiting_for("ContainerCreating")),)
    job = job.with_status(decide(job, observed(clusters=cluster, pods=pulling), 30).status)
    again = decide(job, observed(clusters=cluster, pods=failing), 62)
    assert condition(status_of(again), "Failed")[0] == "False"


def test_image_that_may_not_be_pulled_fails_at_once() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = (a_pod(name, "head", **waiting_for("ErrImageNeverPull")),)
    plan = decide(job, observed(clusters=(a_cluster(name),), pods=pods))
    assert condition(status_of(plan), "Failed") == ("True", Reason.IMAGE_PULL_FAILED)


def test_schedulers_words_reach_the_user() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = (a_pod(name, "worker", 1, phase="Pending", ready=False, unschedulable="0/2 nodes"),)
    status = status_of(decide(job, observed(clusters=(a_cluster(name),), pods=pods)))
    ready = next(c for c in status.conditions if c.type == "Ready")
    assert (ready.reason, "0/2 nodes" in ready.message) == (Reason.UNSCHEDULABLE, True)


def test_missing_token_is_made_again() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = (a_pod(name, "head", **waiting_for("CreateContainerConfigError", "secret")),)
    plan = decide(job, observed(clusters=(a_cluster(name),), pods=pods))
    assert plan.actions == (EnsureToken(name),)


def test_trouble_that_passes_during_a_restart_leaves_no_empty_message() -> None:
    job, facts = running(a_job().with_restarts(1))
    job = job.with_status(decide(job, observed(clusters=facts.clusters), 5).status)
    job = job.with_status(decide(job, observed(clusters=facts.clusters), 6).status)
    name = cluster_name(job)
    cluster = (a_cluster(name),)
    stuck = (a_pod(name, "head", **waiting_for("CreateContainerConfigError", "slow")),)
    job = job.with_status(decide(job, observed(clusters=cluster, pods=stuck), 7).status)
    coming = (a_pod(name, "head", phase="Pending", ready=False),)
    status = status_of(decide(job, observed(clusters=cluster, pods=coming), 8))
    ready = next(c for c in status.conditions if c.type == "Ready")
    assert (ready.reason, ready.message != "") == (Reason.RESTARTING, True)


def test_silent_kuberay_is_named() -> None:
    job = opened(a_job())
    facts = observed(clusters=(a_cluster(cluster_name(job)),))
    early = decide(job, facts, 5)
    late = status_of(decide(job.with_status(early.status), facts, 25))
    assert condition(late, "Ready")[1] == Reason.KUBERAY_SILENT


def test_pod_that_dies_before_the_run_fails_the_attempt() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = (a_pod(name, "head", **ended(127)), *ready_pods(name)[1:])
    status = status_of(decide(job, observed(clusters=(a_cluster(name),), pods=pods)))
    assert status.attempts[-1].cause == Reason.POD_FAILED
    assert status.failure is not None
    assert "127" in status.failure.message


def with_fault(name: str, reason: str) -> tuple[PodFacts, ...]:
    """Pods of which the head's fetcher has given up."""
    report = CodeReport(fault=CodeFault(reason, "spec.code.git.ref: why"))
    return (a_pod(name, "head", code=report, **ended(1)), *ready_pods(name)[1:])


def test_code_that_cannot_be_had_ends_the_job() -> None:
    job = opened(a_job().with_restarts(3).with_spec(code=FROM_GIT))
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=with_fault(name, REFUSED))
    status = status_of(decide(job, facts))
    assert condition(status, "Failed") == ("True", Reason.CODE_REFUSED)
    assert status.failure is not None
    assert status.failure.message == "spec.code.git.ref: why"


def test_code_that_cannot_be_had_now_is_tried_for_on_another_cluster() -> None:
    job = opened(a_job().with_restarts(1).with_spec(code=FROM_GIT))
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=with_fault(name, UNAVAILABLE))
    status = status_of(decide(job, facts))
    assert condition(status, "Ready") == ("True", Reason.RESTARTING)
    assert status.attempts[-1].cause == Reason.CODE_UNAVAILABLE
    job = job.with_status(status)
    gone = decide(job, observed(pods=()), 1)
    job = job.with_status(gone.status)
    assert cluster_name(job) != name
    spent = observed(
        clusters=(a_cluster(cluster_name(job)),), pods=with_fault(cluster_name(job), UNAVAILABLE)
    )
    last = status_of(decide(job, spent, 2))
    assert condition(last, "Failed") == ("True", Reason.CODE_UNAVAILABLE)


def test_a_pod_that_kuberay_deletes_at_once_has_still_said_why() -> None:
    job = opened(a_job().with_spec(code=FROM_GIT))
    name = cluster_name(job)
    report = CodeReport(fault=CodeFault(REFUSED, "spec.code.git.ref: why"))
    pods = (a_pod(name, "head", code=report, deleting=True, **ended(1)),)
    plan = decide(job, observed(clusters=(a_cluster(name),), pods=pods))
    assert condition(status_of(plan), "Failed") == ("True", Reason.CODE_REFUSED)


def test_unreachable_head_is_said_and_nothing_is_given_up() -> None:
    job, facts = running(a_job())
    plan = decide(job, with_run(job, facts, RunState.UNKNOWN, error="timeout"))
    status = status_of(plan)
    assert condition(status, "Ready") == ("False", Reason.HEAD_UNREACHABLE)
    assert status.attempts[-1].state == "Running"
