"""A program with a TorchTrainer of its own, as people write them: it knows nothing of a job.

Its numbers (four workers, three restarts) are not the job's. `argv[1]` says how it shall end.
"""

import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import deepspeed
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

how = sys.argv[1] if len(sys.argv) > 1 else "plain"
deepspeed_config = {
    "train_micro_batch_size_per_gpu": 4,
    "zero_optimization": {"stage": 3},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
}


def batches():
    """Four batches an epoch: from Ray Data where there is some, else drawn."""
    if how != "data":
        yield from (torch.randn(4, 16) for _ in range(4))
        return
    for batch in ray.train.get_dataset_shard("train").iter_torch_batches(batch_size=4):
        yield batch["x"].float().unsqueeze(1).repeat(1, 16)


def train_func(config):
    """Three epochs, or two more; the state of each is reported as a checkpoint."""
    assert dist.get_world_size() == 2, "the job's size, not this program's"
    assert config["lr_scale"] == 1
    note = Path(os.environ["DSJOB_CHECKPOINT_DIR"], f"cores-{dist.get_rank()}")
    note.write_text(f"{sorted(os.sched_getaffinity(0))} {os.environ['OMP_NUM_THREADS']}")
    torch.manual_seed(0)
    net = torch.nn.Linear(16, 16)
    engine, optimizer, *_ = deepspeed.initialize(
        model=net, model_parameters=net.parameters(), config=deepspeed_config
    )
    start = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            _, state = engine.load_checkpoint(folder)
            start = state["epoch"] + 1
    for epoch in range(start, 5 if how == "more" else 3):
        for x in batches():
            loss = ((engine(x) - x) ** 2).mean()
            engine.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        with TemporaryDirectory() as folder:
            engine.save_checkpoint(folder, client_state={"epoch": epoch})
            dist.barrier()
            ray.train.report(
                {"epoch": epoch, "loss": loss.item()},
                checkpoint=Checkpoint.from_directory(folder),
            )
        is_first = (os.environ["DSJOB_ATTEMPT"], os.environ["DSJOB_RESTART"]) == ("1", "0")
        if how == "kill" and is_first and epoch == 1 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang" and epoch == 1 and dist.get_rank() == 1:
            time.sleep(600)
    return "trained"


def make_trainer(**more):
    """The trainer as its author wrote it."""
    return TorchTrainer(
        train_func,
        train_loop_config={"lr_scale": 1},
        scaling_config=ScalingConfig(num_workers=4),
        run_config=RunConfig(name="mine", failure_config=FailureConfig(max_failures=3)),
        **more,
    )


if __name__ == "__main__":
    if how == "raise":
        raise KeyError("told to fail")
    if how == "nothing":
        sys.exit(0)
    more = (
        {"datasets": {"train": ray.data.from_items([{"x": n} for n in range(32)])}}
        if how == "data"
        else {}
    )
    trainer = make_trainer(**more)
    if how == "twice":
        make_trainer()
    result = trainer.fit()
    assert result.error is None
    print(f"result {result.return_value} {result.metrics['epoch']}")
