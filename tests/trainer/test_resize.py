"""A run continues with more and with fewer ranks: same states, same samples, same global batch."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.batching import read_batch, refit, write_batch
from deepspeed_trainer.contract import (
    EXIT_SUCCEEDED,
    MANIFEST_FILE,
    Cause,
    Entrypoint,
    EntrypointKind,
)
from deepspeed_trainer.fingerprint.proof import compare
from tests.trainer.attempts import CONFIG, Job, Outcome
from tests.trainer.raycluster import RayCluster
from tests.trainer.test_exact import history

PROGRAM = "resize.py"
TOLERANCE = 1e-4
"""Share by which losses and norms may differ: sums of floats in another order."""


@pytest.fixture(scope="module")
def wide() -> Iterator[RayCluster]:
    """One pod with room for four ranks."""
    with RayCluster(pods=("worker-a",), ranks_per_pod=4) as running:
        yield running


def config(ranks: int, first: int) -> dict[str, Any]:
    """The run's configuration, written for `first` ranks, as the operator hands it to `ranks`."""
    written = {
        **CONFIG,
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": 3, "sub_group_size": 1000},
    }
    batch = read_batch(written, first)
    assert batch is not None
    return write_batch(written, refit(batch, ranks))


def attempt(job: Job, number: int, until: int, ranks: int, first: int, *words: str) -> Outcome:
    per_node = 1 if len(job.cluster.pods) > 1 else ranks
    outcome = job.run(
        number,
        PROGRAM,
        f"--until={until}",
        *words,
        nodes=ranks // per_node,
        ranks_per_node=per_node,
        deepspeed_config=config(ranks, first),
    )
    assert outcome.exit_code == EXIT_SUCCEEDED, outcome.log
    return outcome


def require_same_training(calm: Outcome, last: Outcome) -> None:
    """Samples exactly; losses and gradient norms within the tolerance."""
    one, other = history(calm.folder.parent), history(last.folder.parent)
    assert (one.findings, other.findings) == ([], [])
    assert (len(one.steps), len(other.steps)) == (12, 12)
    assert compare(one, other, tolerance=TOLERANCE) is None
    assert compare(one, other, tolerance=None) is not None, "other ranks sum in another order"


@pytest.mark.parametrize(("cluster_name", "sizes"), [("cluster", (2, 1, 2)), ("wide", (4, 2, 4))])
def test_a_resized_run_trains_as_the_undisturbed_one(
    request: pytest.FixtureRequest, storage: Path, cluster_name: str, sizes: tuple[int, ...]
) -> None:
    cluster: RayCluster = request.getfixturevalue(cluster_name)
    calm = attempt(Job(cluster, storage), 1, 12, sizes[0], sizes[0])
    job = Job(cluster, storage)
    outcomes = [
        attempt(job, number, 4 * number, ranks, sizes[0])
        for number, ranks in enumerate(sizes, start=1)
    ]
    for before, after in pairwise(outcomes):
        assert after.said(0)["loaded"] == before.said(0)["saved"], "bit by bit"
        assert after.said(0)["mine"] == after.progress.resumed_from.step  # type: ignore[union-attr]
        (converted,) = after.of_kind("converted")
        assert after.progress.notice is not None
        assert converted["message"] in after.progress.notice
    require_same_training(calm, outcomes[-1])


def test_a_function_is_resized_as_well(wide: RayCluster, storage: Path) -> None:
    """There Ray's worker is the rank, and converts."""
    job = Job(wide, storage)
    for number, ranks in enumerate((2, 1), start=1):
        program = Entrypoint(EntrypointKind.FUNCTION, "resize:train", (), {"until": 4 * number})
        outcome = job.run(
            number,
            "resize:train",
            entrypoint=program,
            nodes=1,
            ranks_per_node=ranks,
            deepspeed_config=config(ranks, 2),
        )
        assert outcome.exit_code == EXIT_SUCCEEDED, outcome.log
    assert outcome.progress.resumed_from is not None
    assert outcome.progress.resumed_from.step == 4
    assert outcome.of_kind("converted")
    found = history(outcome.folder.parent)
    assert (found.findings, len(found.steps)) == ([], 8)


def test_what_is_saved_under_the_name_of_a_converted_one_is_new_and_whole(
    wide: RayCluster, storage: Path
) -> None:
    job = Job(wide, storage)
    attempt(job, 1, 4, 2, 2, "--tag=last")
    second = attempt(job, 2, 8, 1, 2, "--tag=last")
    assert second.of_kind("converted")
    (saved,) = second.of_kind("committed")
    named = json.loads((storage / saved["path"] / MANIFEST_FILE).read_text())["files"]
    assert named
    assert not [file for file in named if "/zero/" in file["path"]], "nothing old is saved along"
    third = attempt(job, 3, 8, 1, 2)
    assert not third.of_kind("converted")
    assert third.said(0)["loaded"] == second.said(0)["saved"]


def test_a_size_or_a_batch_that_cannot_be_is_refused_before_a_step(
    wide: RayCluster, storage: Path
) -> None:
    job = Job(wide, storage)
    attempt(job, 1, 4, 2, 2)
    refused = job.run(2, PROGRAM, "--until=8", nodes=1, ranks_per_node=3)
    failure = refused.progress.failure
    assert failure is not None
    assert failure.cause is Cause.WORLD_SIZE_CHANGED
    assert "3 ranks cannot share a global batch of 8 samples evenly; 1, 2, 4 or 8 can" in (
        failure.message
    )
    assert not (refused.folder / "logs" / "rank-00000.log").exists(), "no program was started"
    # As from a program that has its figures in its own code.
    own = {**config(2, 2), "train_batch_size": 4, "gradient_accumulation_steps": 2}
    stopped = job.run(3, PROGRAM, "--until=8", nodes=1, ranks_per_node=1, deepspeed_config=own)
    failure = stopped.progress.failure
    assert failure is not None
    assert failure.cause is Cause.WRONG_BATCH_SIZE
    assert "train_micro_batch_size_per_gpu 2 and gradient_accumulation_steps 4" in failure.message
    assert not stopped.of_kind("firstStep")


def test_a_run_that_cannot_be_resized_says_so_with_its_first_checkpoint(
    wide: RayCluster, storage: Path
) -> None:
    job = Job(wide, storage)
    first = attempt(job, 1, 4, 2, 2, "--frozen")
    assert first.progress.notice is not None
    assert "frozen parameters" in first.progress.notice
    refused = job.run(2, PROGRAM, "--until=8", "--frozen", nodes=1, ranks_per_node=1)
    failure = refused.progress.failure
    assert failure is not None
    assert failure.cause is Cause.WORLD_SIZE_CHANGED
    assert "frozen parameters" in failure.message
