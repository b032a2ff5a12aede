"""Train loops for the function entrypoint."""

import os
import time
from pathlib import Path

import deepspeed
import ray.train
import torch
import torch.distributed as dist


def report_and_exit(config: dict) -> None:
    assert dist.get_world_size() == 2
    assert config == {"from": "config"}
    ray.train.report({"accuracy": 0.5, "note": "text is no figure"})
    raise SystemExit(0)


def report_often() -> None:
    for number in range(12):
        ray.train.report({"number": number})


def without_argument() -> str:
    return "done"


def fail_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise KeyError("told to fail")
    dist.barrier()


def fail_on_rank_1_at_first() -> None:
    assert os.environ["DSJOB_ATTEMPT"] == "1"
    if os.environ["DSJOB_RESTART"] == "0":
        fail_on_rank_1()
    ray.train.report({"restart": int(os.environ["DSJOB_RESTART"])})


def hang(config: dict) -> None:
    if dist.get_rank() == 0:
        Path(config["note"]).write_text(str(os.getpid()))
    time.sleep(600)


def tell_cores(config: dict) -> None:
    cores = sorted(os.sched_getaffinity(0))
    Path(f"{config['note']}-{dist.get_rank()}").write_text(
        f"{cores} {os.environ['OMP_NUM_THREADS']}"
    )


def make_engine() -> deepspeed.DeepSpeedEngine:
    net = torch.nn.Linear(16, 16)
    engine, *_ = deepspeed.initialize(
        model=net,
        model_parameters=net.parameters(),
        config=os.environ["DSJOB_DEEPSPEED_CONFIG"],
    )
    return engine


def train_step(engine: deepspeed.DeepSpeedEngine) -> None:
    x = torch.randn(4, 16)
    loss = ((engine(x) - x) ** 2).mean()
    engine.backward(loss)
    engine.step()


def train_with_deepspeed() -> None:
    engine = make_engine()
    for _ in range(4):
        train_step(engine)
    engine.save_checkpoint(os.environ["DSJOB_CHECKPOINT_DIR"])


def train_and_fail_in_the_first_attempt() -> None:
    """Six steps with a save after every second; rank 1 fails after the fifth."""
    engine = make_engine()
    folder = os.environ["DSJOB_CHECKPOINT_DIR"]
    if Path(folder, "latest").exists():
        _, state = engine.load_checkpoint(folder)
        assert state["step"] == engine.global_steps
    while engine.global_steps < 6:
        train_step(engine)
        if engine.global_steps % 2 == 0:
            engine.save_checkpoint(folder, client_state={"step": engine.global_steps})
        if engine.global_steps == 5 and os.environ["DSJOB_ATTEMPT"] == "1":
            fail_on_rank_1()
