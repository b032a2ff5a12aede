"""What is printed about a job, from its status alone: a line, a page, a row."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from deepspeed_operator.cli.picture import (
    conditions_table,
    describe,
    failure_lines,
    format_span,
    is_true,
    render_list,
    render_status,
)

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


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


def test_a_figure_that_the_program_reports_is_kept_apart_from_ours() -> None:
    metrics = [{"name": "loss", "value": "0.7"}, {"name": "accuracy", "value": "0.9"}]
    line = describe(a_job(progress={"step": 7, "loss": "0.61", "metrics": metrics}))
    assert line.endswith("step 7  loss 0.61  reported loss 0.7  accuracy 0.9")


def test_a_notice_of_the_ranks_is_shown() -> None:
    job = a_job(progress={"step": 7, "notice": "pod b is slow by itself"})
    assert (
        "pod b is slow by itself"
        in render_status({**job, "metadata": {"name": "bert"}}, NOON).plain
    )


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


def test_a_condition_of_an_older_spec_does_not_count() -> None:
    old = {**a_condition("Finished", "True", "Succeeded"), "observedGeneration": 1}
    job = {**a_job(conditions=[old]), "metadata": {"generation": 2}}
    assert not is_true(job, "Finished")
    assert is_true({**job, "metadata": {"generation": 1}}, "Finished")


def test_a_restart_says_why_it_waits_and_not_how_far_it_was() -> None:
    waits = a_condition("Ready", "True", "Restarting", "attempt 1 failed; the next in 10 s")
    line = describe(a_job("Restarting", progress={"step": 7}, conditions=[waits], restarts=1))
    assert "Restarting: attempt 1 failed; the next in 10 s" in line
    assert "restarts 1" in line


def test_text_of_a_program_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\x07loss"
    failure = {"cause": "UserError", "message": evil, "logTail": [evil]}
    job = {
        "metadata": {"name": "job"},
        "spec": {"nodes": 1},
        **a_job(progress={"step": 1, "metrics": [{"name": evil, "value": "1"}]}, failure=failure),
    }
    for said in (describe(job), *failure_lines(job), page_of(job)):
        assert "\x1b" not in said
        assert "\x07" not in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (3600, "1h0m"), (90000, "1d1h")],
)
def test_spans_are_written_as_kubectl_writes_ages(seconds: int, text: str) -> None:
    assert format_span(NOON + timedelta(seconds=seconds), NOON) == text


def test_a_clock_that_is_behind_shows_no_negative_age() -> None:
    assert format_span(NOON, NOON + timedelta(seconds=5)) == "0s"


def a_failed_job() -> dict[str, Any]:
    attempt = {"number": 1, "state": "Failed", "cause": "Signal"}
    times = {"startTime": "2026-01-01T11:58:00Z", "finishTime": "2026-01-01T11:59:30Z"}
    failure = {
        "cause": "Signal", "message": "rank 1 was ended by SIGKILL", "rank": 1, "node": "pod-b",
        "exitCode": -9, "logTail": ["step 8/24", "step 9/24"],
    }  # fmt: skip
    return {
        "metadata": {"name": "bert", "namespace": "team", "generation": 1},
        "spec": {"nodes": 2},
        "status": {
            "phase": "Failed",
            **times,
            "progress": {"step": 9, "totalSteps": 24, "loss": "0.5"},
            "checkpoint": {"step": 8, "path": "team/bert", "time": "2026-01-01T11:59:00Z"},
            "attempts": [{**attempt, **times, "resumedFromStep": 4}],
            "cluster": {"name": "bert-1", "head": "bert-1-head", "readyWorkers": 2},
            "failure": failure,
            "conditions": [
                a_condition("Ready", "False", "RunFailed", "the budget is spent"),
                a_condition("Running", "False", "NotRunning"),
                a_condition("Failed", "True", "RunFailed", "the budget is spent"),
            ],
        },
    }


def page_of(job: dict[str, Any]) -> str:
    return str(render_status(job, NOON))


def test_the_page_of_a_failed_job_holds_all_that_one_looks_for() -> None:
    page = page_of(a_failed_job())
    for fact in (
        "bert  Failed  after 1m30s",
        "RunFailed: the budget is spent",
        "step 9/24  loss 0.5",
        "step 8, 1m0s ago, in team/bert",
        "1  Failed       1m30s  continued from step 4  Signal",
        "Signal: rank 1 was ended by SIGKILL",
        "rank 1, pod pod-b, exit code -9; its last lines:",
        "│ step 9/24",
        "bert-1, head bert-1-head, 2 workers ready",
    ):
        assert fact in page
    assert "NotRunning" not in page, "a condition that does not hold tells nothing"


def test_the_page_tells_what_was_passed_over() -> None:
    job = a_job(progress={"step": 6, "notice": "checkpoint step-10 of step 10: a.pt is missing"})
    assert "checkpoint step-10 of step 10: a.pt is missing" in page_of(
        {**job, "metadata": {"name": "bert"}}
    )


def test_the_page_of_a_new_job_says_that_nobody_has_seen_it() -> None:
    page = page_of({"metadata": {"name": "bert"}, "spec": {"nodes": 1}})
    assert "bert  New" in page
    assert "the operator has not seen it yet" in page


def test_a_list_has_a_row_a_job_and_the_namespace_when_asked() -> None:
    table = render_list([a_failed_job()], NOON, with_namespace=True)
    console = Console(width=200)
    with console.capture() as said:
        console.print(table)
    head, row = said.get().splitlines()
    assert head.split()[:3] == ["NAMESPACE", "NAME", "PHASE"]
    assert row.split()[:6] == ["team", "bert", "Failed", "2", "9/24", "0.5"]
