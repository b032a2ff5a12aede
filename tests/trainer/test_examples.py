"""Every example's own program trains two ranks on two pods, as its job.yaml says.

The rows of examples/seeds.toml that a test shows are named on it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepspeed_trainer.contract import RunPhase
from tests.trainer.attempts import Job, Outcome
from tests.trainer.examples import make_task, run
from tests.trainer.raycluster import RayCluster

seed = pytest.mark.seed


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples' image holds."""
    folder = tmp_path_factory.mktemp("task")
    make_task(folder)
    return folder


@pytest.fixture(scope="module")
def pods(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two worker pods with one rank each, and a folder for code."""
    code = tmp_path_factory.mktemp("code")
    with RayCluster(pods=("worker-a", "worker-b"), code=code, lib=str(task)) as running:
        yield running


@pytest.fixture
def job(pods: RayCluster, storage: Path) -> Job:
    return Job(pods, storage)


def assert_trained(outcome: Outcome, log: str, *, nodes: int = 2) -> None:
    """All ranks took four steps with half of the parameters each, and what they saved is whole."""
    progress = outcome.progress
    assert progress.phase is RunPhase.SUCCEEDED, outcome.log[-3000:]
    assert (progress.world_size, progress.nodes, progress.step) == (2, nodes, 4)
    assert progress.checkpoint is not None
    for rank in (0, 1):
        assert f"rank {rank} of 2: ZeRO-3" in log


def rank_logs(outcome: Outcome) -> str:
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log[-3000:]
    return outcome.rank_log(0) + outcome.rank_log(1)


@seed("S0", "a TorchTrainer around existing DeepSpeed code")
@seed("S0", "deepspeed.initialize with training data, collate function and configuration")
@seed("S0", "the device from get_accelerator()")
@seed("S2", "ZeRO-3 from PyTorch's DataLoader")
@seed("S2", "scheduler, clipping and accumulation in the configuration")
@seed("S2", "epochs with an evaluation, torchmetrics over all ranks")
@seed("S2", "each rank reports its own shard of a checkpoint")
@seed("S2", "best checkpoints of the result")
@seed("S2", "persistent storage that all nodes reach")
def test_a_complete_program_from_a_data_loader(job: Job) -> None:
    outcome = run(job, "ray-train-dataloader")
    assert_trained(outcome, outcome.log)
    assert {metric.name for metric in outcome.progress.metrics} >= {"f1", "accuracy"}
    assert outcome.log.count("Checkpoint(filesystem=local, path=") >= 2
    assert any("num_workers: 4 became 2" in told for told in outcome.progress.overrides)


@seed("S2", "ZeRO-3 from Ray Data")
@seed("S2", "DataConfig that splits all data sets")
def test_a_complete_program_from_ray_data(job: Job) -> None:
    outcome = run(job, "ray-train-ray-data")
    assert_trained(outcome, outcome.log)


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(
            "ray-train-dataloader",
            marks=seed("S2", "the train loop alone, from PyTorch's DataLoader"),
        ),
        pytest.param("ray-train-ray-data", marks=seed("S2", "the train loop alone, from Ray Data")),
    ],
)
def test_the_train_loop_alone_as_a_function(job: Job, example: str) -> None:
    outcome = run(job, example, "job-function.yaml")
    assert_trained(outcome, outcome.log)


@seed("S0", "Accelerate, fine-tuning with DeepSpeed")
@seed("S1", "an Accelerator inside a TorchTrainer, everything prepared by it")
@seed("S1", "DeepSpeedPlugin with a configuration that says auto")
@seed("S1", "the optimizer in CPU memory")
@seed("S1", "Accelerate from PyTorch's DataLoader")
@seed("S3", "a learning rate schedule that the program steps")
def test_accelerate_with_deepspeed(job: Job) -> None:
    outcome = run(job, "accelerate-deepspeed")
    assert_trained(outcome, outcome.log)


@seed("S1", "FullyShardedDataParallelPlugin with full state dicts")
@seed("S1", "Accelerate from Ray Data")
def test_accelerate_with_fsdp(job: Job) -> None:
    outcome = run(job, "accelerate-fsdp")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log[-3000:]
    assert (outcome.progress.world_size, outcome.progress.nodes) == (2, 2)
    assert outcome.progress.checkpoint is not None
    for rank in (0, 1):
        assert f"rank {rank} of 2: FSDP" in outcome.log


@seed("S3", "deepspeed.initialize with the arguments of the command line")
@seed("S3", "the group made by deepspeed.initialize")
@seed("S3", "forward, backward and step of the engine")
@seed("S3", "a learning rate schedule that the engine steps")
@seed("S3", "save_checkpoint by all ranks, under a name")
@seed("S3", "load_checkpoint, client_state and the loader moved on to its step")
@seed("S4", "the loader that deepspeed.initialize returns")
@seed("S4", "a configuration file with the global batch")
def test_a_launcher_script_and_how_it_goes_on(job: Job) -> None:
    first = run(job, "launcher-script", "job.yaml", "--epochs=1")
    assert first.progress.phase is RunPhase.SUCCEEDED, first.log[-3000:]
    assert first.progress.step == 2
    outcome = run(job, "launcher-script", attempt=2)
    assert_trained(outcome, rank_logs(outcome))
    said = outcome.rank_log(0)
    assert "step 4 loss" not in said
    assert "step 5 loss" in said
    assert len({line.split(" lr ")[1] for line in said.splitlines() if " lr " in line}) > 1


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(
            "job-module.yaml",
            marks=[
                seed("S3", "--module"),
                seed("S3", "the group made by deepspeed.init_distributed"),
            ],
        ),
        pytest.param(
            "job-command.yaml",
            marks=[
                seed("S3", "a command in every rank"),
                seed("S3", "the group made by torch.distributed.init_process_group"),
                seed("S3", "bfloat16, weights and optimizer in CPU memory"),
            ],
        ),
    ],
)
def test_a_launcher_script_started_otherwise(job: Job, manifest: str) -> None:
    outcome = run(job, "launcher-script", manifest)
    assert_trained(outcome, rank_logs(outcome))


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(
            "deepspeed",
            marks=seed("S3", "deepspeed --hostfile --include, without SSH"),
        ),
        pytest.param("torchrun", marks=seed("S3", "torchrun")),
        pytest.param("accelerate", marks=seed("S1", "accelerate launch")),
        pytest.param("mpirun", marks=seed("S3", "mpirun")),
    ],
)
def test_a_script_that_calls_a_launcher(job: Job, launcher: str) -> None:
    outcome = run(job, "launcher-script", "job-node.yaml", launcher=launcher)
    assert_trained(outcome, rank_logs(outcome))


@seed("S3", "a single node, --include localhost:0,1")
def test_a_single_node_with_two_ranks(
    task: Path, storage: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code = tmp_path_factory.mktemp("code")
    with RayCluster(("worker-a",), ranks_per_pod=2, code=code, lib=str(task)) as pod:
        outcome = run(Job(pod, storage), "launcher-script", "job-single.yaml")
    assert_trained(outcome, rank_logs(outcome), nodes=1)


@seed("S0", "Transformers, fine-tuning with DeepSpeed")
@seed("S3", "Transformers' --deepspeed flag with a configuration file")
def test_transformers_trainer(job: Job) -> None:
    outcome = run(job, "transformers-trainer")
    assert_trained(outcome, rank_logs(outcome))


@seed("S0", "Lightning, fine-tuning with DeepSpeed")
def test_lightning_with_its_deepspeed_strategy(job: Job) -> None:
    outcome = run(job, "lightning-deepspeed")
    assert_trained(outcome, outcome.log)
