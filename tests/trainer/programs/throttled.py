"""A DeepSpeed program with as much to compute in each rank; one may be throttled to half."""

import argparse
import os
import subprocess

import deepspeed
import torch

STEPS = 160
# As the kernel does with a CPU limit of half a core: so long it runs, so long it does not.
THROTTLE = "while sleep 0.05; do kill -STOP {pid}; sleep 0.05; kill -CONT {pid} || exit; done"

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--throttled", type=int, default=-1)
deepspeed.add_config_arguments(parser)
args = parser.parse_args()

torch.set_num_threads(1)
net = torch.nn.Linear(32, 32)
engine, *_ = deepspeed.initialize(args=args, model=net, model_parameters=net.parameters())
if engine.global_rank == args.throttled:
    subprocess.Popen(["sh", "-c", THROTTLE.format(pid=os.getpid())], start_new_session=True)
work = torch.randn(400, 400)
for _ in range(STEPS):
    for _ in range(20):
        work = torch.nn.functional.normalize(work @ work)
    x = torch.randn(4, 32)
    engine.backward(((engine(x) - x) ** 2).mean())
    engine.step()
