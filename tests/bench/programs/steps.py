"""A DeepSpeed program as people write them, ZeRO-3 on two ranks, that takes its own time.

It knows nothing of who started it.  Rank 0 writes what it took to `--out`: seconds of each step,
CPU seconds of its own process, and those of all processes that carry the job's mark (the variable
BENCH_JOB): launchers, supervisors and servers are among them.
"""

import argparse
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--warm", type=int, default=20)
parser.add_argument("--width", type=int, default=768)
parser.add_argument("--out", type=Path)
deepspeed.add_config_arguments(parser)
args = parser.parse_args()
os.sched_setaffinity(0, {int(os.environ["LOCAL_RANK"]) % (os.cpu_count() or 1)})
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MARK = f"BENCH_JOB={os.environ['BENCH_JOB']}".encode()


def cpu_of_job_s() -> float:
    """CPU seconds of all processes of this job, of those too that its processes waited for."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if MARK in (folder / "environ").read_bytes().split(b"\0"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += sum(int(field) for field in fields[11:15])
        except OSError:
            continue  # it has just ended, or is not ours
    return total / TICKS_PER_S


# ZeRO-3 never calls this op; compiling it would take a minute.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
torch.manual_seed(0)
width = args.width
layers = [layer for _ in range(4) for layer in (torch.nn.Linear(width, width), torch.nn.ReLU())]
net = torch.nn.Sequential(*layers)
engine, *_ = deepspeed.initialize(args=args, model=net, model_parameters=net.parameters())
assert engine.zero_optimization_stage() == 3
assert dist.get_world_size() == 2
batch = torch.randn(engine.train_micro_batch_size_per_gpu(), width)


def step() -> None:
    """One step of training."""
    loss = ((engine(batch) - batch) ** 2).mean()
    engine.backward(loss)
    engine.step()


for _ in range(args.warm):
    step()
before_s = cpu_of_job_s() if dist.get_rank() == 0 else 0.0
dist.barrier()
own_s, times = time.process_time(), [time.perf_counter()]
for _ in range(args.steps):
    step()
    times.append(time.perf_counter())
own_s = time.process_time() - own_s
dist.barrier()
if dist.get_rank() == 0:
    durations = [after - before for before, after in pairwise(times)]
    found = {
        "seconds_per_step": (times[-1] - times[0]) / args.steps,
        "median_step_s": sorted(durations)[len(durations) // 2],
        "rank_cpu_s_per_step": own_s / args.steps,
        "job_cpu_s_per_step": (cpu_of_job_s() - before_s) / args.steps,
    }
    args.out.write_text(json.dumps(found))
