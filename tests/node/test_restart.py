"""A rank is killed between two saves: what was saved is not lost, and this is seen, not assumed.

Real here: all of it.  The kill is a SIGKILL to the rank's process inside its pod, at a step drawn
from a fixed seed.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.quickstart import Run

STEPS, INTERVAL = 12, 4
KILL_AFTER = random.Random(3).randrange(INTERVAL + 1, 2 * INTERVAL - 1)  # noqa: S311  a seeded draw
VICTIM = 1


def run_and_kill(quickstart: Callable[..., Run], resume: str) -> Run:
    """Train, kill a rank between the first save and the second, and wait for the end."""
    run = quickstart(
        *("--steps", str(STEPS), "--save-interval", str(INTERVAL), "--held-out", "64"),
        checkpoint={"resume": {"mode": resume}},
        failurePolicy={"maxRestarts": 1, "backoffSeconds": 0},
    )
    run.await_condition("Running")
    run.kill_rank(VICTIM, after_step=KILL_AFTER)
    run.await_condition("Complete")
    return run


def committed_steps(run: Run, attempt: int) -> list[int]:
    return [e["step"] for e in run.events(attempt) if e["event"] == "committed"]


def shards(events: list[dict[str, Any]], event: str, step: int) -> dict[int, dict[str, str]]:
    """Rank to file to hash, as noted by one kind of event for one step."""
    return {
        e["rank"]: {f["path"]: f["sha256"] for f in e["files"]}
        for e in events
        if e["event"] == event and e["step"] == step
    }


def assert_resumed_exactly(run: Run) -> None:
    before, after = run.events(1), run.events(2)
    saved_step = max(committed_steps(run, 1))
    loaded = shards(after, "loaded", saved_step)
    assert set(loaded) == {0, 1}, "every rank loaded the step that was saved last"
    assert loaded == shards(before, "saved", saved_step)
    first_steps = {e["rank"]: e["step"] for e in after if e["event"] == "firstStep"}
    assert first_steps == {0: saved_step + 1, 1: saved_step + 1}


@pytest.mark.usefixtures("operator")
def test_killed_rank_costs_only_the_steps_since_the_last_save(
    quickstart: Callable[..., Run],
) -> None:
    run = run_and_kill(quickstart, "Auto")
    status = run.job()["status"]
    first, second = status["attempts"]
    assert (first["state"], first["cause"]) == ("Failed", "Signal")
    assert status["restarts"] == 1
    assert first["cluster"] == second["cluster"], "the RayCluster was used again"
    assert_resumed_exactly(run)
    assert second["resumedFromStep"] == max(committed_steps(run, 1))
    assert second["firstStep"] == second["resumedFromStep"] + 1
    assert status["progress"]["step"] == STEPS


@pytest.mark.usefixtures("operator")
def test_without_resume_the_same_proof_fails(quickstart: Callable[..., Run]) -> None:
    run = run_and_kill(quickstart, "Never")
    assert run.events(2), "there is something to compare"
    with pytest.raises(AssertionError):
        assert_resumed_exactly(run)
    assert run.job()["status"]["attempts"][1]["firstStep"] == 1
