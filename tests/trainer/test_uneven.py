"""Ranks with unequal numbers of batches: found and named, or made equal."""

from pathlib import Path

from deepspeed_trainer.contract import EXIT_SUCCEEDED, Cause
from tests.trainer.attempts import Job
from tests.trainer.raycluster import RayCluster


def test_a_rank_that_runs_out_of_batches_is_named(cluster: RayCluster, storage: Path) -> None:
    """The others wait for its weights in a collective; their complaint is a consequence."""
    failure = Job(cluster, storage).run(1, "uneven.py").progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank, failure.exit_code) == (Cause.EARLY_EXIT, 1, 0)
    assert "after step 4 while rank 0 went on" in failure.message


def test_equal_batches_end_together(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "uneven.py", "--equal")
    assert outcome.exit_code == EXIT_SUCCEEDED, outcome.log
    assert outcome.progress.step == 4
