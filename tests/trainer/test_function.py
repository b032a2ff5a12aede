"""A train loop as a function, in Ray Train's own workers."""

from pathlib import Path

from deepspeed_trainer.contract import Cause, Metric, RunPhase
from tests.trainer.attempts import Job
from tests.trainer.raycluster import RayCluster


def test_reported_figures_are_shown_and_exit_0_is_success(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "loops:report_and_exit")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.metrics == (Metric("accuracy", "0.5"),)


def test_a_function_may_take_no_argument(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "loops:without_argument")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log


def test_an_error_on_one_rank_is_the_cause(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "loops:fail_on_rank_1")
    failure = outcome.progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.USER_ERROR, 1)
    assert "told to fail" in failure.message


def test_a_missing_function_is_an_import_that_failed(cluster: RayCluster, storage: Path) -> None:
    failure = Job(cluster, storage).run(1, "loops:no_such_function").progress.failure
    assert failure is not None
    assert failure.cause is Cause.IMPORT_FAILED


def test_deepspeed_in_a_function_is_seen_and_its_saves_are_committed(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "loops:train_with_deepspeed")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.step == 4
    assert outcome.progress.checkpoint is not None
    assert outcome.progress.checkpoint.tag == "global_step4"


def test_the_next_attempt_of_a_function_goes_on_from_its_last_save(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    failed = job.run(1, "loops:train_and_fail_in_the_first_attempt")
    assert failed.progress.failure is not None, failed.log
    assert failed.progress.failure.rank == 1
    outcome = job.run(2, "loops:train_and_fail_in_the_first_attempt")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.resumed_from is not None
    assert (outcome.progress.resumed_from.step, outcome.progress.first_step) == (4, 5)
    assert outcome.progress.step == 6
