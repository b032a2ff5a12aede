"""The chain as a whole: which policy speaks, in which order, and what stands in the status.

Excluded: how plans are carried out (tests/wire) and what KubeRay does with them (tests/cluster).
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import Condition, DeepSpeedJobStatus
from deepspeed_operator.decide.observed import RunState
from deepspeed_trainer.checkpoints.journal import Commit
from deepspeed_trainer.checkpoints.lineage import OlderRun, describe_older_runs
from deepspeed_trainer.contract import SavedCheckpoint
from tests.support.builders import JobBuilder, a_job, observed, ready_pods
from tests.support.passes import condition, decide, running, status_of, submitting, with_run
from tests.support.world import World, live


def test_first_pass_records_the_attempt_and_makes_nothing() -> None:
    plan = decide(a_job(), observed())
    assert plan.actions == ()
    assert plan.locked
    assert [a.state for a in status_of(plan).attempts] == ["Opened"]


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


def test_older_runs_of_the_name_are_told_once_in_a_condition_and_an_event() -> None:
    job, facts = running(a_job())
    found = with_run(job, facts, RunState.RUNNING, step=0)
    assert found.run is not None
    assert found.run.progress is not None
    commit = Commit(path="step-30", step=30, tag="a", epoch=1, world_size=2, time=1.0)
    told = describe_older_runs([OlderRun("team-a/demo/0/run-1", commit)])
    notice = f"a pod is slow by itself; {told}; a save was not brought"
    progress = replace(found.run.progress, notice=notice)
    seen = replace(found, run=replace(found.run, progress=progress))
    assert decide(job, found, 1).events == ()
    first = decide(job, seen, 2)
    (event,) = first.events
    assert (event.type, event.reason, event.message) == ("Warning", Reason.OLDER_RUNS, told)
    assert condition(status_of(first), "OlderRuns") == ("True", Reason.OLDER_RUNS)
    job = job.with_status(first.status)
    assert decide(job, seen, 3).events == ()
    # The notice goes, the condition stays; and another attempt may begin at step 0 again.
    later = replace(found, run=replace(found.run, progress=replace(progress, notice=None, step=1)))
    gone = decide(job, later, 40)
    assert condition(status_of(gone), "OlderRuns")[0] == "True"
    assert decide(job.with_status(gone.status), seen, 80).events == ()


def test_a_full_storage_is_a_condition_until_a_save_counts_again() -> None:
    job, facts = running(a_job())
    found = with_run(job, facts, RunState.RUNNING, step=1)

    def look(job: JobBuilder, **progress: Any) -> tuple[JobBuilder, Condition | None]:
        assert found.run is not None
        assert found.run.progress is not None
        run = replace(found.run, progress=replace(found.run.progress, **progress))
        plan = decide(job, replace(found, run=run), 1)
        after = job if plan.status is None else job.with_status(plan.status)
        shown = DeepSpeedJobStatus.model_validate(after.build().status).conditions
        return after, next((each for each in shown if each.type == "CheckpointStorageFull"), None)

    job, never = look(job)
    assert never is None
    job, full = look(job, storage_full="rank 1, no room for a.pt")
    assert full is not None
    assert (full.status, full.reason) == ("True", Reason.SAVE_SKIPPED)
    assert "spec.checkpoint.keep" in full.message
    assert "rank 1, no room for a.pt" in full.message
    job, still = look(job)
    assert still == full, "nothing counts yet"
    _, after = look(job, checkpoint=SavedCheckpoint(5, "step5", "run/step-5", 1.0))
    assert after is not None
    assert (after.status, after.reason, after.message) == ("False", Reason.SAVED, "")


def test_a_notice_of_the_ranks_is_shown_and_goes() -> None:
    job, facts = running(a_job())
    found = with_run(job, facts, RunState.RUNNING, step=1)
    assert found.run is not None
    assert found.run.progress is not None
    slow = replace(found.run.progress, notice="pod b is slow by itself")
    plan = decide(job, replace(found, run=replace(found.run, progress=slow)), 1)
    progress = status_of(plan).progress
    assert progress is not None
    assert progress.notice == "pod b is slow by itself"
    later = decide(job.with_status(plan.status), found, 60)
    progress = status_of(later).progress
    assert progress is not None
    assert progress.notice is None


def test_figures_that_did_not_change_are_not_written_again() -> None:
    job, facts = running(a_job())
    facts = with_run(job, facts, RunState.RUNNING, step=5)
    job = job.with_status(decide(job, facts, 1).status)
    assert decide(job, facts, 3600).status is None


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
