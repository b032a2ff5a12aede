"""Another number of nodes ends the attempt that runs; the next has them. A bad one ends nothing."""

import pytest

from deepspeed_operator.api.names import Reason
from deepspeed_operator.decide.actions import ApplyObject, DeleteCluster, SubmitRun
from deepspeed_operator.decide.observed import Observed, RunState
from deepspeed_trainer.batching import ACCUMULATION, MICRO, TRAIN
from deepspeed_trainer.contract import CONTRACT_ENV, RunContract
from tests.support.builders import JobBuilder, a_cluster, a_job, observed, ready_pods
from tests.support.passes import (
    cluster_name,
    condition,
    decide,
    running,
    status_of,
    submitting,
    with_run,
)

CONFIG = {TRAIN: 8, MICRO: 2, ACCUMULATION: 2}


def a_resizable_job(**config: object) -> JobBuilder:
    """Two nodes with one rank each."""
    return a_job().with_spec(
        gpusPerNode=1,
        storage={"volumeClaim": "runs"},
        deepspeed={"config": {**CONFIG, **config}},
    )


def resized(job: JobBuilder, facts: Observed, nodes: int) -> JobBuilder:
    """The job after the pass in which its attempt ends for another size."""
    job = job.with_spec(nodes=nodes)
    return job.with_status(status_of(decide(job, facts, 5)))


def test_the_attempt_ends_then_its_cluster_goes_then_the_next_one_has_the_nodes() -> None:
    job, facts = running(a_resizable_job(), step=3)
    old = cluster_name(job)
    plan = decide(job.with_spec(nodes=4), facts, 5)
    assert (plan.locked, plan.actions) == (True, ()), "recorded before anything is undone"
    job = resized(job, facts, 4)
    status = job.build().status
    last = status["attempts"][-1]
    assert (last["state"], last["cause"], last["nodes"]) == ("Failed", Reason.RESIZED, 2)
    assert "failure" not in status or status["failure"] is None, "nothing failed"

    plan = decide(job, facts, 6)
    assert [a.name for a in plan.actions if isinstance(a, DeleteCluster)] == [old]
    job = job.with_status(status_of(plan))
    status = job.build().status
    assert (status["attempts"][-1]["nodes"], status["worldSize"]) == (4, 4)
    assert (status["restarts"], status["run"]["nodes"]) == (0, 2), "it costs no restart"
    assert cluster_name(job) != old
    [made] = [a for a in decide(job, observed(), 7).actions if isinstance(a, ApplyObject)]
    assert made.body["spec"]["workerGroupSpecs"][0]["replicas"] == 4


def test_it_waits_for_no_backoff_and_asks_for_no_budget() -> None:
    job, facts = running(a_resizable_job().with_restarts(0, backoff_s=600), step=3)
    job = resized(job, facts, 1)
    assert decide(job, facts, 6).sentence.startswith("opens attempt 2")


@pytest.mark.parametrize(("nodes", "figures"), [(1, (8, 2, 4)), (4, (8, 2, 1)), (8, (8, 1, 1))])
def test_the_next_attempt_is_told_the_same_global_batch(
    nodes: int, figures: tuple[int, ...]
) -> None:
    job, facts = running(a_resizable_job(), step=3)
    job = resized(job, facts, nodes)
    job = job.with_status(status_of(decide(job, observed(), 6)))
    name = cluster_name(job)
    up = observed(clusters=(a_cluster(name),), pods=ready_pods(name, nodes))
    job = job.with_status(status_of(decide(job, up, 7)))
    [submit] = [a for a in decide(job, up, 8).actions if isinstance(a, SubmitRun)]
    contract = RunContract.from_json(submit.env[CONTRACT_ENV])
    assert contract.world_size == nodes
    config = contract.deepspeed_config
    assert config is not None
    assert tuple(config[name] for name in (TRAIN, MICRO, ACCUMULATION)) == figures


def test_a_size_that_cannot_share_the_batch_is_told_and_ends_nothing() -> None:
    job, facts = running(a_resizable_job(), step=3)
    plan = decide(job.with_spec(nodes=3), facts, 5)
    status = status_of(plan)
    assert status.attempts[-1].state == "Running"
    assert condition(status, "Running")[0] == "True"
    message = next(c.message for c in status.conditions if c.type == "Running")
    assert "spec.nodes 3 is not taken" in message
    assert "1, 2, 4 or 8 can" in message
    assert (status.world_size, plan.actions) == (2, ())


def test_before_its_run_is_handed_over_an_attempt_ends_as_well() -> None:
    job, facts = submitting(a_resizable_job())
    job = resized(job, facts, 1)
    assert job.build().status["attempts"][-1]["cause"] == Reason.RESIZED


def test_a_run_that_has_ended_ends_as_it_did() -> None:
    job, facts = running(a_resizable_job(), step=3)
    done = with_run(job, facts, RunState.SUCCEEDED, step=9)
    status = status_of(decide(job.with_spec(nodes=4), done, 5))
    assert condition(status, "Complete")[0] == "True"


def test_a_finished_job_takes_no_notice() -> None:
    job, facts = running(a_resizable_job(), step=3)
    done = with_run(job, facts, RunState.SUCCEEDED, step=9)
    job = job.with_status(status_of(decide(job, done, 5))).with_spec(nodes=4)
    assert decide(job, done, 6).status is None


def test_a_configuration_that_was_written_for_the_new_size_is_taken_as_it_is() -> None:
    job, facts = running(a_resizable_job(), step=3)
    written = {TRAIN: 8, MICRO: 1, ACCUMULATION: 2}
    job = job.with_spec(deepspeed={"config": written})
    job = resized(job, facts, 4)
    assert decide(job, facts, 6).sentence.startswith("opens attempt 2")


def test_what_a_framework_fills_in_is_left_to_it() -> None:
    job, facts = running(a_resizable_job(**{MICRO: "auto", TRAIN: "auto"}), step=3)
    job = resized(job, facts, 3)
    assert decide(job, facts, 6).sentence.startswith("opens attempt 2")
