"""A run that is told to begins from another run's checkpoint, and changes nothing of that run's."""

import hashlib
from pathlib import Path

from deepspeed_trainer.contract import EXIT_PROGRAM_FAILED, Cause
from tests.trainer.attempts import Job, Outcome
from tests.trainer.raycluster import RayCluster
from tests.trainer.test_exact import history
from tests.trainer.test_resize import PROGRAM, attempt, config, wide

__all__ = ["wide"]


def files_below(folder: Path) -> dict[str, str]:
    """Every file of a run by its path, with its hash."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def begin_from(job: Job, number: int, until: int, ranks: int, source: str) -> Outcome:
    return job.run(
        number,
        PROGRAM,
        f"--until={until}",
        nodes=1,
        ranks_per_node=ranks,
        deepspeed_config=config(ranks, 2),
        resume_from=source,
    )


def test_a_run_begins_from_another_runs_newest_checkpoint_and_then_has_its_own(
    wide: RayCluster, storage: Path
) -> None:
    older = attempt(Job(wide, storage), 1, 4, 2, 2)
    run = older.folder.parent
    before = files_below(run)
    source = run.relative_to(storage).as_posix()

    job = Job(wide, storage)
    first = begin_from(job, 1, 8, 2, source)
    assert first.exit_code == 0, first.log
    assert first.progress.resumed_from is not None
    assert first.progress.resumed_from.path.startswith(f"{source}/checkpoints/")
    assert first.said(0)["loaded"] == older.said(0)["saved"], "bit by bit"
    assert files_below(run) == before, "the other run is read and no more"

    second = begin_from(job, 2, 12, 2, source)
    assert second.progress.resumed_from is not None
    assert second.progress.resumed_from.step == 8
    assert second.said(0)["loaded"] == first.said(0)["saved"]
    found = history(second.folder.parent)
    assert found.findings == []
    assert [done.number for done in found.steps] == list(range(5, 13))


def test_another_number_of_ranks_converts_a_copy_of_its_own(
    wide: RayCluster, storage: Path
) -> None:
    older = attempt(Job(wide, storage), 1, 4, 2, 2)
    before = files_below(older.folder.parent)
    assert older.progress.checkpoint is not None
    job = Job(wide, storage)
    first = begin_from(job, 1, 6, 1, older.progress.checkpoint.path)
    assert first.exit_code == 0, first.log
    assert len(first.of_kind("converted")) == 1
    assert first.said(0)["loaded"] == older.said(0)["saved"]
    assert files_below(older.folder.parent) == before


def test_what_is_not_there_fails_the_run_and_what_is_not_continued_is_told(
    wide: RayCluster, storage: Path
) -> None:
    older = attempt(Job(wide, storage), 1, 4, 2, 2)
    run = older.folder.parent.relative_to(storage).as_posix()
    refused = begin_from(Job(wide, storage), 1, 8, 2, f"{run}/checkpoints/step-9")
    assert refused.exit_code == EXIT_PROGRAM_FAILED
    assert refused.progress.failure is not None
    assert refused.progress.failure.cause is Cause.NO_SUCH_CHECKPOINT
    assert f"{run} has no checkpoint checkpoints/step-9" in refused.progress.failure.message

    anew = attempt(Job(wide, storage), 1, 4, 2, 2)
    assert anew.progress.notice is not None
    assert f"older ones of its name: {run} (step 4)" in anew.progress.notice
    assert "checkpoint.resume.mode: From" in anew.progress.notice
