"""A program that makes its own TorchTrainer runs with the job's ranks, and goes on after a kill."""

from pathlib import Path
from typing import Any

from deepspeed_trainer.contract import Cause, Entrypoint, EntrypointKind, RunPhase
from tests.trainer.attempts import Job, Outcome
from tests.trainer.raycluster import RayCluster


def run(job: Job, attempt: int, *args: str, sizing: str = "Job", **fields: Any) -> Outcome:
    entrypoint = Entrypoint(EntrypointKind.DRIVER, "own_trainer.py", args, sizing=sizing)
    return job.run(attempt, "own_trainer.py", entrypoint=entrypoint, **fields)


def test_the_jobs_numbers_replace_the_programs_and_each_is_told(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = run(Job(cluster, storage), 1)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert (outcome.progress.world_size, outcome.progress.nodes) == (2, 2)
    assert outcome.progress.step == 12
    told = " ".join(outcome.progress.overrides)
    for wanted in ("num_workers: 4 became 2", "max_failures: 3 became 0", "'mine' became"):
        assert wanted in told
    assert "result trained 2" in outcome.log
    assert {m.name for m in outcome.progress.metrics} >= {"epoch", "loss"}


def test_a_program_may_insist_on_its_numbers_and_is_refused_before_its_ranks_start(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = run(Job(cluster, storage), 1, sizing="Program")
    failure = outcome.progress.failure
    assert failure is not None, outcome.log
    assert failure.cause is Cause.USER_ERROR
    assert "num_workers: 4 became 2" in failure.message
    assert outcome.progress.world_size == 0


def test_ranks_with_ray_data_leave_the_cpus_to_it(cluster: RayCluster, storage: Path) -> None:
    outcome = run(Job(cluster, storage), 1, "data")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.step == 12


def test_get_checkpoint_answers_the_last_committed_report(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    first = run(job, 1, "kill")
    assert first.progress.failure is not None, first.log
    assert (first.progress.failure.cause, first.progress.failure.rank) == (Cause.POD_LOST, 1)
    saved = first.progress.checkpoint
    assert saved is not None
    # What Ray wrote of its own is torn by a crash, or was written by another Ray; nobody reads it.
    snapshots = list(storage.rglob("checkpoint_manager_snapshot.json"))
    assert snapshots
    for snapshot in snapshots:
        snapshot.write_text('{"version": ')
    second = run(job, 2, "kill")
    assert second.progress.phase is RunPhase.SUCCEEDED, second.log
    assert second.progress.resumed_from is not None
    assert second.progress.resumed_from.path == saved.path
    assert second.progress.first_step == saved.step + 1
    assert second.progress.step == 12


def test_an_error_of_the_program_itself_names_no_rank(cluster: RayCluster, storage: Path) -> None:
    failure = run(Job(cluster, storage), 1, "raise").progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank, failure.exit_code) == (Cause.USER_ERROR, None, 1)
    assert "told to fail" in failure.message


def test_a_program_that_trains_nothing_has_failed(cluster: RayCluster, storage: Path) -> None:
    failure = run(Job(cluster, storage), 1, "nothing").progress.failure
    assert failure is not None
    assert failure.cause is Cause.NO_PROCESS_GROUP


def test_a_second_trainer_is_refused(cluster: RayCluster, storage: Path) -> None:
    failure = run(Job(cluster, storage), 1, "twice").progress.failure
    assert failure is not None
    assert "second TorchTrainer" in failure.message
