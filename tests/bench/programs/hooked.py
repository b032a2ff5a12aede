"""ZeRO-3 on two ranks, with the trainer's hooks taken off and put on again every few steps.

Everything else stays: process, memory, cores, engine.  Rank 0 writes what each block of steps took
to `--out`.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime import engine as engine_module
from torch.distributed.distributed_c10d import Work

from deepspeed_trainer.hooks.engine import EngineWatch
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.wire import Wire
from tests.support import figures

parser = argparse.ArgumentParser()
parser.add_argument("--folder", type=Path)
parser.add_argument("--rounds", type=int)
parser.add_argument("--block", type=int)
parser.add_argument("--width", type=int)
deepspeed.add_config_arguments(parser)
args = parser.parse_args()
rank = int(os.environ["RANK"])
os.sched_setaffinity(0, {int(os.environ["LOCAL_RANK"]) % (os.cpu_count() or 1)})

CLASSES = (engine_module.DeepSpeedEngine, Work)
before = [dict(vars(each)) for each in CLASSES]
wire = Wire(str(args.folder / f"hook-{rank}"))
watch = EngineWatch(rank, wire.report, lambda: Page.create(args.folder / f"page-{rank}"))
watch.patch_engine(engine_module)
changed = [
    (owner, name, plain[name], vars(owner)[name])
    for owner, plain in zip(CLASSES, before, strict=True)
    for name in plain
    if vars(owner)[name] is not plain[name]
]
assert len(changed) > 5

torch.manual_seed(0)
width = args.width
layers = [layer for _ in range(4) for layer in (torch.nn.Linear(width, width), torch.nn.ReLU())]
net = torch.nn.Sequential(*layers)
engine, *_ = deepspeed.initialize(args=args, model=net, model_parameters=net.parameters())
assert engine.zero_optimization_stage() == 3
counted = engine.optimizer.step
batch = torch.randn(engine.train_micro_batch_size_per_gpu(), width)


def set_hooks(*, on: bool) -> None:
    """Put all of them on, or all off."""
    for owner, name, plain, hooked in changed:
        setattr(owner, name, hooked if on else plain)
    engine.optimizer.step = counted if on else counted.__wrapped__


def run_block() -> dict[str, Any]:
    """Some steps; returns seconds of the clock and of this process' CPU, for each."""
    dist.barrier()
    cpu_s, began = time.process_time(), time.perf_counter()
    for _ in range(args.block):
        engine.backward(((engine(batch) - batch) ** 2).mean())
        engine.step()
    took_s, used_s = time.perf_counter() - began, time.process_time() - cpu_s
    return {"seconds_per_step": took_s / args.block, "cpu_s_per_step": used_s / args.block}


blocks = []
for number, turn in enumerate(figures.rounds(("off", "on", "off again"), args.rounds)):
    for name in turn:
        set_hooks(on=name == "on")
        blocks.append({"round": number, "system": name, **run_block()})
if rank == 0:
    (args.folder / "blocks.json").write_text(json.dumps(blocks))
