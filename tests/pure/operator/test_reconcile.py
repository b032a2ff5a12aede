"""The chain as a whole: which policy speaks, in which order, and what stands in the status.

Excluded: how plans are carried out (tests/wire) and what KubeRay does with them (tests/cluster).
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.decide.actions import (
    ApplyObject,
    DeleteCluster,
    EnsureToken,
    Plan,
    SubmitRun,
)
from deepspeed_operator.decide.observed import ClaimFacts, Observed, Prerequisites, RunState
from deepspeed_operator.decide.reconcile import reconcile
from deepspeed_trainer.contract import CONTRACT_ENV, Cause, Failure, RunContract
from tests.support.builders import (
    DEFAULTS,
    MET,
    JobBuilder,
    a_cluster,
    a_job,
    a_pod,
    a_run,
    after,
    ended,
    observed,
    ready_pods,
    waiting_for,
)
from tests.support.world import World, live


def decide(job: JobBuilder, facts: Observed, seconds: float = 0) -> Plan:
    return reconcile(job.build(), facts, DEFAULTS, after(seconds))


def status_of(plan: Plan) -> DeepSpeedJobStatus:
    assert plan.status is not None, plan.sentence
    return plan.status


def condition(status: DeepSpeedJobStatus, kind: str) -> tuple[str, str]:
    found = next(c for c in status.conditions if c.type == kind)
    return found.status, found.reason


def opened(job: JobBuilder) -> JobBuilder:
    return job.with_status(decide(job, observed()).status)


def cluster_name(job: JobBuilder) -> str:
    name: str = job.build().status["attempts"][-1]["cluster"]
    return name


def submitting(job: JobBuilder) -> tuple[JobBuilder, Observed]:
    job = opened(job)
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=ready_pods(name))
    return job.with_status(decide(job, facts).status), facts


def running(job: JobBuilder, step: int | None = None) -> tuple[JobBuilder, Observed]:
    job, facts = submitting(job)
    facts = with_run(job, facts, RunState.RUNNING, step=step)
    return job.with_status(decide(job, facts).status), facts


def with_run(job: JobBuilder, facts: Observed, state: RunState, **more: object) -> Observed:
    last = job.build().status["attempts"][-1]
    run = a_run(last["submissionId"], facts.pods[0], state, **more)  # type: ignore[arg-type]
    return observed(clusters=facts.clusters, pods=facts.pods, run=run)


def test_first_pass_records_the_attempt_and_makes_nothing() -> None:
    plan = decide(a_job(), observed())
    assert plan.actions == ()
    assert plan.locked
    assert [a.state for a in status_of(plan).attempts] == ["Opened"]


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


def test_running_is_recorded_with_its_condition() -> None:
    job, facts = submitting(a_job())
    plan = decide(job, with_run(job, facts, RunState.RUNNING))
    assert condition(status_of(plan), "Running") == ("True", Reason.RUNNING)
    assert status_of(plan).attempts[-1].state == "Running"


def test_progress_is_written_at_once_and_then_once_an_interval() -> None:
    job, facts = running(a_job())
    first = decide(job, with_run(job, facts, RunState.RUNNING, step=1), 1)
    assert status_of(first).progress is not None
    job = job.with_status(first.status)
    early = decide(job, with_run(job, facts, RunState.RUNNING, step=9), 20)
    due = decide(job, with_run(job, facts, RunState.RUNNING, step=12), 31)
    assert early.status is None
    progress = status_of(due).progress
    assert progress is not None
    assert progress.step == 12


def test_figures_that_did_not_change_are_not_written_again() -> None:
    job, facts = running(a_job())
    facts = with_run(job, facts, RunState.RUNNING, step=5)
    job = job.with_status(decide(job, facts, 1).status)
    assert decide(job, facts, 3600).status is None


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


def test_run_is_never_handed_to_another_head_than_the_recorded_one() -> None:
    job, facts = submitting(a_job())
    other = a_pod(facts.pods[0].cluster, "head", 7)
    plan = decide(job, observed(clusters=facts.clusters, pods=(other, *facts.pods[1:])))
    assert not any(isinstance(a, SubmitRun) for a in plan.actions)


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


UNMET = {
    "KubeRay is not installed": (
        a_job(),
        Prerequisites(False, None, MET.claim, 8),
        Reason.KUBERAY_MISSING,
    ),
    "two nodes share no storage": (a_job().without("storage"), MET, Reason.STORAGE_MISSING),
    "the claim does not exist": (
        a_job(),
        Prerequisites(True, None, None, 8),
        Reason.CLAIM_MISSING,
    ),
    "the claim is for one node": (
        a_job(),
        Prerequisites(True, None, ClaimFacts(("ReadWriteOnce",), "Bound"), 8),
        Reason.CLAIM_NOT_SHARED,
    ),
    "the ConfigMap does not exist": (
        a_job().with_spec(deepspeed={"configMap": {"name": "ds"}}),
        MET,
        Reason.CONFIG_MAP_MISSING,
    ),
    "the ConfigMap has no such key": (
        a_job().with_spec(deepspeed={"configMap": {"name": "ds"}}),
        Prerequisites(True, {"other": "{}"}, MET.claim, 8),
        Reason.CONFIG_MAP_MISSING,
    ),
    "the ConfigMap holds no JSON": (
        a_job().with_spec(deepspeed={"configMap": {"name": "ds"}}),
        Prerequisites(True, {"ds_config.json": "{"}, MET.claim, 8),
        Reason.DEEPSPEED_CONFIG_INVALID,
    ),
    "no node has enough devices": (
        a_job().with_spec(accelerator={"type": "Nvidia"}, gpusPerNode=8),
        Prerequisites(True, None, MET.claim, 4),
        Reason.ACCELERATOR_MISSING,
    ),
    "a quantity is none": (
        a_job().with_spec(worker={"resources": {"memory": "lots"}}),
        MET,
        Reason.INVALID_SPEC,
    ),
}


@pytest.mark.parametrize("case", UNMET, ids=lambda case: case.replace(" ", "_"))
def test_what_is_missing_holds_the_job_with_a_reason_and_no_pods(case: str) -> None:
    job, answers, reason = UNMET[case]
    plan = decide(job, observed(prerequisites=answers))
    assert plan.actions == ()
    assert condition(status_of(plan), "Ready") == ("False", reason)
    assert plan.requeue_after_s is not None
    again = decide(job.with_status(plan.status), observed(prerequisites=answers), 5)
    assert again.status is None
    assert again.events == ()


def test_job_starts_by_itself_when_what_was_missing_appears() -> None:
    job = a_job()
    missing = Prerequisites(True, None, None, 8)
    job = job.with_status(decide(job, observed(prerequisites=missing)).status)
    assert [a.state for a in status_of(decide(job, observed(), 5)).attempts] == ["Opened"]


DEEPSPEED_FAULTS = {
    "a removed key": {"elasticity": {}},
    "a misspelt key": {"zero_optimisation": {"stage": 3}},
    "fp16 on CPU": {"fp16": {"enabled": True}},
    "a batch that does not add up": {
        "train_batch_size": 10,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
    },
}


@pytest.mark.parametrize("case", DEEPSPEED_FAULTS, ids=lambda case: case.replace(" ", "_"))
def test_bad_deepspeed_config_is_refused_before_pods(case: str) -> None:
    job = a_job().with_spec(deepspeed={"config": DEEPSPEED_FAULTS[case]})
    plan = decide(job, observed())
    assert condition(status_of(plan), "Ready") == ("False", Reason.DEEPSPEED_CONFIG_INVALID)


def test_good_deepspeed_config_passes() -> None:
    config = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "bf16": {"enabled": True},
        "my_own_key": 1,
    }
    plan = decide(a_job().with_spec(deepspeed={"config": config}), observed())
    assert [a.state for a in status_of(plan).attempts] == ["Opened"]


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


def test_unreachable_head_is_said_and_nothing_is_given_up() -> None:
    job, facts = running(a_job())
    plan = decide(job, with_run(job, facts, RunState.UNKNOWN, error="timeout"))
    status = status_of(plan)
    assert condition(status, "Ready") == ("False", Reason.HEAD_UNREACHABLE)
    assert status.attempts[-1].state == "Running"


def test_deleted_job_is_left_to_its_owner_references() -> None:
    job = JobBuilder(deleting=True)
    assert decide(job, observed()).actions == ()


def test_spec_that_this_operator_cannot_read_is_said() -> None:
    plan = decide(a_job().with_spec(nodes="two"), observed())
    status = status_of(plan)
    assert condition(status, "Stalled") == ("True", Reason.INVALID_SPEC)
    assert plan.actions == ()


def test_finished_job_is_never_touched_again() -> None:
    job, facts = running(a_job())
    job = job.with_status(decide(job, with_run(job, facts, RunState.SUCCEEDED)).status)
    plan = decide(job.with_spec(nodes="two"), observed())
    assert (plan.status, plan.actions) == (None, ())


def test_undisturbed_job_needs_at_most_six_status_writes() -> None:
    world = live(World(a_job(), [RunState.SUCCEEDED]))
    assert world.writes.count("status") <= 6
    assert world.handed_over == [world.job.status["attempts"][0]["submissionId"]]


@pytest.mark.parametrize("outcome", [RunState.SUCCEEDED, RunState.FAILED])
def test_crash_after_any_write_changes_no_outcome(outcome: RunState) -> None:
    job = a_job().with_restarts(2)
    undisturbed = live(World(job, [RunState.FAILED, outcome]))
    for crash in range(1, len(undisturbed.writes) + 1):
        crashed = live(World(job, [RunState.FAILED, outcome]), crash_after=crash)
        assert crashed.handed_over == undisturbed.handed_over, f"crash after write {crash}"
        assert crashed.clusters == undisturbed.clusters
        assert ends(crashed.job) == ends(undisturbed.job)


def ends(job: JobFacts) -> list[tuple[str, str]]:
    return [(a["state"], a.get("cause", "")) for a in job.status["attempts"]]


@given(seconds=st.integers(0, 100), workers=st.integers(0, 3), state=st.sampled_from(RunState))
@settings(max_examples=50, deadline=None)
def test_same_input_gives_the_same_plan(seconds: int, workers: int, state: RunState) -> None:
    job, facts = running(a_job())
    pods = ready_pods(facts.clusters[0].name, workers)
    facts = with_run(job, observed(clusters=facts.clusters, pods=pods), state, step=3)
    assert decide(job, facts, seconds) == decide(job, facts, seconds)
