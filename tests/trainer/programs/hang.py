"""A DeepSpeed program in which one rank stops working after some step (--odd RANK:HOW:STEP)."""

import argparse
import os
import signal
import subprocess
import time

import deepspeed
import torch
import torch.distributed as dist

SHORT_S = 7


def build() -> deepspeed.DeepSpeedEngine:
    net = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    engine, *_ = deepspeed.initialize(
        model=net,
        model_parameters=net.parameters(),
        config=os.environ["DSJOB_DEEPSPEED_CONFIG"],
    )
    return engine


def look_at_data_for_ever() -> None:
    time.sleep(600)


def stop_for(seconds: int) -> None:
    """Let the kernel stop this process, and somebody else wake it."""
    wake = f"sleep {seconds}; kill -CONT {os.getpid()}"
    subprocess.Popen(["sh", "-c", wake], start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)


ODD = {
    "sleep": look_at_data_for_ever,
    "barrier": dist.barrier,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "short": lambda: stop_for(SHORT_S),
}


def train(odd: str, steps: int) -> None:
    rank, how, at = odd.split(":")
    engine = build()
    for step in range(1, steps + 1):
        x = torch.randn(4, 16)
        engine.backward(((engine(x) - x) ** 2).mean())
        engine.step()
        with torch.no_grad():
            for _ in range(10):
                engine(x)
        if engine.global_rank == int(rank) and step == int(at):
            ODD[how]()


def as_function(config: dict) -> None:
    train(config["odd"], steps=12)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--odd", default="-1:never:0")
    parser.add_argument("--steps", type=int, default=12)
    args, _ = parser.parse_known_args()
    train(args.odd, args.steps)
