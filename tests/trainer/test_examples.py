"""Every example's own program trains two ranks on two pods as its job.yaml says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepspeed_trainer.contract import RunPhase
from tests.trainer.attempts import Outcome
from tests.trainer.examples import make_task, run
from tests.trainer.raycluster import RayCluster

NEEDED = ("datasets", "torchmetrics", "lightning", "transformers", "accelerate")
for name in NEEDED:
    pytest.importorskip(name, reason="the examples' image has it")


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two worker pods with what the examples' image holds, and an empty folder for code."""
    task = tmp_path_factory.mktemp("task")
    make_task(task)
    code = tmp_path_factory.mktemp("code")
    with RayCluster(pods=("worker-a", "worker-b"), code=code, lib=str(task)) as running:
        yield running


def assert_trained(outcome: Outcome, steps: int) -> None:
    """It came to its end on two nodes, and what it saved is committed."""
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert (outcome.progress.world_size, outcome.progress.nodes) == (2, 2)
    assert outcome.progress.step == steps
    assert outcome.progress.checkpoint is not None


def assert_zero3(text: str) -> None:
    """Both ranks said that they hold half of the parameters."""
    for rank in (0, 1):
        assert f"rank {rank} of 2: ZeRO-3" in text


@pytest.mark.parametrize("example", ["ray-train-dataloader", "ray-train-ray-data"])
def test_a_complete_ray_train_program(pods: RayCluster, storage: Path, example: str) -> None:
    outcome = run(pods, storage, example)
    assert_trained(outcome, steps=4)
    assert_zero3(outcome.log)
    assert {metric.name for metric in outcome.progress.metrics} >= {"f1", "accuracy"}
    assert "best checkpoints: [(Checkpoint(" in outcome.log
    assert any("num_workers: 4 became 2" in told for told in outcome.progress.overrides)
