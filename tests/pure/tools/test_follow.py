"""What the demo prints about a job, from its status alone."""

from typing import Any

import pytest

from tools.follow import conditions_table, describe, is_true


def a_condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def a_job(phase: str = "Running", **status: Any) -> dict[str, Any]:
    return {"status": {"phase": phase, **status}}


def test_a_job_that_nobody_has_seen_yet_is_new() -> None:
    assert describe({}).split() == ["New", ":", "not", "seen", "yet"]


def test_before_the_first_step_the_reason_is_shown() -> None:
    waits = a_condition("Ready", "False", "ClusterStarting", "1 of 3 pods is ready")
    assert "ClusterStarting: 1 of 3 pods is ready" in describe(a_job(conditions=[waits]))


def test_steps_loss_and_rate_are_shown() -> None:
    progress = {"step": 7, "totalSteps": 40, "loss": "0.61", "samplesPerSecond": "21.5"}
    line = describe(a_job(progress=progress))
    assert "step 7/40  loss 0.61  samples/s 21.5" in line


def test_a_program_without_an_end_shows_its_step_alone() -> None:
    assert describe(a_job(progress={"step": 7})).endswith("step 7")


def test_a_restart_is_shown() -> None:
    assert "restarts 2" in describe(a_job(progress={"step": 7}, restarts=2))


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_only_true_is_true(status: str) -> None:
    job = a_job(conditions=[a_condition("Finished", status, "NotFinished")])
    assert not is_true(job, "Finished")
    assert not is_true(job, "Complete")
    assert is_true(a_job(conditions=[a_condition("Finished", "True", "Succeeded")]), "Finished")


def test_every_condition_has_a_line() -> None:
    found = [a_condition("Ready", "True", "Running"), a_condition("Failed", "False", "NotFailed")]
    assert len(conditions_table(a_job(conditions=found)).splitlines()) == 1 + len(found)
    assert "none yet" in conditions_table({})
