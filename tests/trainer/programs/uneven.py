"""A program whose data gives rank 0 more batches than rank 1."""

import argparse

import deepspeed
import torch

from deepspeed_trainer.loop import equal_batches

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--equal", action="store_true")
deepspeed.add_config_arguments(parser)
args = parser.parse_args()

net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
engine, *_ = deepspeed.initialize(args=args, model=net, model_parameters=net.parameters())
batches = [torch.randn(4, 32) for _ in range(7 - 3 * engine.global_rank)]
for x in equal_batches(engine, batches) if args.equal else batches:
    engine.backward(((engine(x) - x) ** 2).mean())
    engine.step()
