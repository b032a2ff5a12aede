"""The next attempt is handed over when the ranks of the last one are gone, by proof or by time."""

from dataclasses import replace
from typing import Any

import pytest

from deepspeed_operator.api.names import Reason
from deepspeed_operator.decide.actions import SubmitRun
from deepspeed_operator.decide.fencing import MARGIN_S
from deepspeed_operator.decide.observed import Observed, PodFacts, RunState
from deepspeed_trainer.contract import CONTRACT_ENV, DEADMAN_S, RunContract
from tests.support.builders import JobBuilder, a_cluster, a_job, ended, observed, ready_pods
from tests.support.passes import (
    cluster_name,
    condition,
    decide,
    running,
    status_of,
    submitting,
    with_run,
)

FENCE_S = DEADMAN_S + MARGIN_S


def beheaded(*left: PodFacts | dict[str, Any]) -> tuple[JobBuilder, Observed]:
    """A job whose head was lost at 5 s and whose second cluster is ready at 10 s.

    `left` are facts about the two workers of the first cluster; each of them is still there.
    """
    job, facts = running(a_job().with_restarts(3))
    workers = facts.pods[1:]
    gone = observed(clusters=facts.clusters, pods=workers)
    job = job.with_status(decide(job, gone, 5).status)
    job = job.with_status(decide(job, gone, 6).status)
    name = cluster_name(job)
    assert name != facts.clusters[0].name
    old = tuple(replace(pod, **given) for pod, given in zip(workers, left, strict=False))  # type: ignore[arg-type]
    up = observed(clusters=(a_cluster(name),), pods=(*ready_pods(name), *old))
    return job, up


def state_after(job: JobBuilder, facts: Observed, seconds: float) -> str:
    """State of the new attempt after a pass."""
    plan = decide(job, facts, seconds)
    return "Opened" if plan.status is None else plan.status.attempts[-1].state


@pytest.mark.parametrize("left", [{}, {"deleting": True}], ids=["running", "being deleted"])
def test_a_pod_of_the_attempt_before_holds_the_next_one(left: dict[str, Any]) -> None:
    job, facts = beheaded(left)
    plan = decide(job, facts, 10)
    status = status_of(plan)
    assert condition(status, "Ready") == ("True", Reason.FENCING)
    assert status.attempts[-1].state == "Opened"
    assert plan.requeue_after_s == pytest.approx(5 + FENCE_S - 10)
    job = job.with_status(status)
    assert decide(job, facts, 30).status is None, "waiting writes nothing more"


def test_time_lets_the_next_attempt_go_where_nobody_can_say() -> None:
    job, facts = beheaded({"deleting": True})
    assert state_after(job, facts, 5 + FENCE_S - 1) == "Opened"
    assert state_after(job, facts, 5 + FENCE_S) == "Submitting"


def test_a_head_that_was_told_to_go_is_given_its_grace() -> None:
    """While it lives it speaks to its ranks, and they go on."""
    job, facts = beheaded({})
    old = running(a_job())[1].pods[0]
    facts = replace(facts, pods=(*facts.pods, replace(old, deleting=True)))
    assert state_after(job, facts, 5 + FENCE_S + 29) == "Opened"
    assert state_after(job, facts, 5 + FENCE_S + 30) == "Submitting"


def test_pods_that_have_ended_hold_nobody() -> None:
    job, facts = beheaded(ended(137), ended(0))
    assert state_after(job, facts, 10) == "Submitting"


def test_pods_that_are_gone_hold_nobody() -> None:
    job, facts = beheaded()
    assert state_after(job, facts, 10) == "Submitting"


def test_an_attempt_that_was_never_handed_over_left_nobody_behind() -> None:
    job, facts = beheaded({})
    attempts = [{**attempt, "headUid": None} for attempt in job.status["attempts"]]
    job = replace(job, status={**job.status, "attempts": attempts})
    assert state_after(job, facts, 10) == "Submitting"


def test_the_same_pods_used_again_hold_nobody() -> None:
    job, facts = running(a_job().with_restarts(3))
    facts = with_run(job, facts, RunState.FAILED)
    job = job.with_status(decide(job, facts, 5).status)
    job = job.with_status(decide(job, facts, 6).status)
    assert state_after(job, facts, 7) == "Submitting"


def test_a_rank_lives_no_longer_than_the_operator_waits() -> None:
    """The contract that the operator writes has the deadman time that it counts with."""
    job, facts = submitting(a_job())
    [submit] = [action for action in decide(job, facts).actions if isinstance(action, SubmitRun)]
    assert RunContract.from_json(submit.env[CONTRACT_ENV]).deadman_s < FENCE_S
