"""A rank is killed between two saves: what was saved is not lost, and this is seen, not assumed.

Real here: all of it.  The kill is a SIGKILL to the rank's process inside its pod, at a step drawn
from a fixed seed.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.quickstart import Run

STEPS, INTERVAL = 12, 4
KILL_AFTER = random.Random(3).randrange(INTERVAL + 1, 2 * INTERVAL - 1)  # noqa: S311  a seeded draw
VICTIM = 1


def run_and_kill(
    quickstart: Callable[..., Run], resume: str = "Auto", *, supervisor: bool = False
) -> Run:
    """Train, kill a rank between the first save and the second, and wait for the end."""
    run = quickstart(
        *("--steps", str(STEPS), "--save-interval", str(INTERVAL), "--held-out", "64"),
        checkpoint={"resume": {"mode": resume}},
        failurePolicy={"maxRestarts": 1, "backoffSeconds": 0},
    )
    run.await_condition("Running")
    if supervisor:
        # What it had not brought to the storage yet is lost with it.
        eventually(lambda: committed_steps(run.events(1)), "a checkpoint counts", within_s=120)
    run.kill_rank(VICTIM, after_step=KILL_AFTER, supervisor=supervisor)
    run.await_condition("Complete")
    return run


def committed_steps(events: list[dict[str, Any]]) -> list[int]:
    return [e["step"] for e in events if e["event"] == "committed"]


def shards(events: list[dict[str, Any]], event: str, step: int) -> dict[int, dict[str, str]]:
    """Rank to file to hash, as noted by one kind of event for one step."""
    return {
        e["rank"]: {f["path"]: f["sha256"] for f in e["files"]}
        for e in events
        if e["event"] == event and e["step"] == step
    }


def of_restart(events: list[dict[str, Any]], restart: int) -> list[dict[str, Any]]:
    """What was noted between two starts of the ranks in one attempt."""
    return [e for e in events if e.get("restart", 0) == restart]


def assert_resumed_exactly(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int:
    """Compare what was saved last with what was loaded next; returns its step."""
    saved_step = max(committed_steps(before))
    loaded = shards(after, "prepared", saved_step)
    assert set(loaded) == {0, 1}, "every rank read the step that was saved last"
    assert loaded == shards(before, "brought", saved_step)
    first_steps = {e["rank"]: e["step"] for e in after if e["event"] == "firstStep"}
    assert first_steps == {0: saved_step + 1, 1: saved_step + 1}
    return saved_step


@pytest.mark.usefixtures("operator")
def test_killed_rank_costs_only_the_steps_since_the_last_save(
    quickstart: Callable[..., Run],
) -> None:
    """In one attempt: its pods are healthy, so its ranks start again in the same workers."""
    run = run_and_kill(quickstart)
    status = run.job()["status"]
    [attempt] = status["attempts"]
    assert (attempt["state"], attempt["restarts"], status["restarts"]) == ("Succeeded", 1, 1)
    events = run.events(1)
    step = assert_resumed_exactly(of_restart(events, 0), of_restart(events, 1))
    [why] = [e for e in events if e["event"] == "restarted"]
    assert (why["cause"], why["rank"]) == ("Signal", VICTIM)
    assert attempt["resumedFromStep"] == step
    assert attempt["firstStep"] == step + 1
    assert status["progress"]["step"] == STEPS
    told = run.kube.list("events.events.k8s.io", run.namespace)
    assert [e["type"] for e in told if e["reason"] == "RanksRestarted"] == ["Warning"]


@pytest.mark.usefixtures("operator")
def test_without_resume_the_same_proof_fails(quickstart: Callable[..., Run]) -> None:
    events = run_and_kill(quickstart, "Never").events(1)
    again = of_restart(events, 1)
    assert again, "there is something to compare"
    with pytest.raises(AssertionError):
        assert_resumed_exactly(of_restart(events, 0), again)
    assert {e["step"] for e in again if e["event"] == "firstStep"} == {1}


@pytest.mark.usefixtures("operator")
def test_lost_supervisor_is_followed_by_another_attempt_on_the_same_cluster(
    quickstart: Callable[..., Run],
) -> None:
    run = run_and_kill(quickstart, supervisor=True)
    status = run.job()["status"]
    first, second = status["attempts"]
    assert (first["state"], first["cause"], first["restarts"]) == ("Failed", "PodLost", 0)
    assert status["restarts"] == 1
    assert first["cluster"] == second["cluster"], "the RayCluster was used again"
    step = assert_resumed_exactly(run.events(1), run.events(2))
    assert (second["resumedFromStep"], second["firstStep"]) == (step, step + 1)
    assert status["progress"]["step"] == STEPS
