"""Makes a process group with torch alone: of all ranks, or of this rank only."""

import sys

import torch.distributed as dist

if sys.argv[2] == "alone":
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
else:
    dist.init_process_group("gloo")
    dist.barrier()
