"""The largest progress that the trainer may tell fits its answer, and the status that shows it."""

from dataclasses import replace

from deepspeed_operator.decide.observed import RunState
from deepspeed_trainer.contract import Cause, Failure, Metric, Progress, Restart, SavedCheckpoint
from deepspeed_trainer.progress import (
    MAX_LINE_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_METRICS,
    MAX_OVERRIDES,
    MAX_PATH_CHARS,
    MAX_PROGRESS_BYTES,
    MAX_RESTART_CHARS,
    MAX_RESTARTS_SHOWN,
    MAX_TAIL_BYTES,
    ResumedFrom,
)
from tests.support.builders import a_job
from tests.support.passes import decide, running, status_of, with_run

KIBIBYTE = 1024
LONGEST = "x" * 64 * KIBIBYTE


def the_largest(progress: Progress) -> Progress:
    """Every list and every text as long as its bound."""
    node, path, line = LONGEST[:253], LONGEST[:MAX_PATH_CHARS], LONGEST[:MAX_LINE_CHARS]
    message, why = LONGEST[:MAX_MESSAGE_CHARS], LONGEST[:MAX_RESTART_CHARS]
    metrics = tuple(Metric(f"{n:0128d}", "1." + "5" * 60) for n in range(MAX_METRICS))
    tail = (line,) * (MAX_TAIL_BYTES // MAX_LINE_CHARS)
    restart = Restart(1e9, Cause.USER_ERROR, why, 65_535, node, 10**12)
    return replace(
        progress,
        metrics=metrics,
        checkpoint=SavedCheckpoint(10**12, LONGEST[:255], path, 1e9),
        resumed_from=ResumedFrom(10**12, path, 1),
        failure=Failure(Cause.USER_ERROR, message, 65_535, node, -9, tail),
        notice=message,
        overrides=(line,) * MAX_OVERRIDES,
        restarts=MAX_RESTARTS_SHOWN,
        last_restarts=(restart,) * MAX_RESTARTS_SHOWN,
    )


def test_the_largest_progress_fits_its_answer_and_the_status() -> None:
    job, facts = running(a_job().with_restarts(100))
    found = with_run(job, facts, RunState.RUNNING, step=1)
    assert found.run is not None
    assert found.run.progress is not None
    largest = the_largest(found.run.progress)
    text = largest.to_json()
    assert len(text) < MAX_PROGRESS_BYTES
    assert Progress.from_json(text) == largest
    plan = decide(job, replace(found, run=replace(found.run, progress=largest)), 1)
    status = status_of(plan).model_dump_json(by_alias=True, exclude_none=True)
    assert len(status) < 32 * KIBIBYTE
