"""From an opened attempt to a run that is handed over to the head: what waits for what."""

from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.decide.actions import ApplyObject, EnsureToken, SubmitRun
from deepspeed_trainer.contract import CONTRACT_ENV, RunContract
from tests.support.builders import a_cluster, a_job, a_pod, observed, ready_pods
from tests.support.passes import cluster_name, decide, opened, status_of, submitting


def test_second_pass_makes_token_before_cluster() -> None:
    plan = decide(opened(a_job()), observed())
    assert [type(a) for a in plan.actions] == [EnsureToken, ApplyObject]
    assert plan.status is None


def test_run_is_handed_over_only_when_status_names_the_head() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=ready_pods(name))
    recording = decide(job, facts)
    assert recording.actions == ()
    assert recording.locked
    attempt = status_of(recording).attempts[-1]
    assert (attempt.state, attempt.head_uid) == ("Submitting", facts.pods[0].uid)
    acting = decide(job.with_status(recording.status), facts)
    assert [type(a) for a in acting.actions] == [SubmitRun]
    assert acting.status is None


def test_contract_names_head_nodes_and_resume() -> None:
    job, facts = submitting(a_job().with_spec(checkpoint={"resume": {"mode": "Never"}}))
    (submit,) = decide(job, facts).actions
    assert isinstance(submit, SubmitRun)
    ordered = RunContract.from_json(submit.env[CONTRACT_ENV])
    assert ordered.head_pod_uid == facts.pods[0].uid
    assert (ordered.nodes, ordered.ranks_per_node, ordered.resume) == (2, 1, "Never")


def test_nothing_is_handed_over_while_a_worker_is_missing() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = ready_pods(name, workers=1)
    plan = decide(job, observed(clusters=(a_cluster(name),), pods=pods))
    assert plan.actions == ()
    assert all(a.state == "Opened" for a in (plan.status or DeepSpeedJobStatus()).attempts)


def test_waiting_for_pods_writes_nothing_twice() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=ready_pods(name, workers=1))
    first = decide(job, facts)
    assert decide(job.with_status(first.status), facts, 5).status is None


def test_run_is_never_handed_to_another_head_than_the_recorded_one() -> None:
    job, facts = submitting(a_job())
    other = a_pod(facts.pods[0].cluster, "head", 7)
    plan = decide(job, observed(clusters=facts.clusters, pods=(other, *facts.pods[1:])))
    assert not any(isinstance(a, SubmitRun) for a in plan.actions)
