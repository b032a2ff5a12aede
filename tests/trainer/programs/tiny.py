"""A DeepSpeed program as people write them; it knows nothing of the trainer.

It may be told to end in some way after some step (--end RANK:HOW:STEP) of its first start, or of
more (--times), and to say where it runs.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import deepspeed
import torch

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--save-every", type=int, default=5)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--tag", default="step{}")
parser.add_argument("--end", default="-1:never:0")
parser.add_argument("--times", type=int, default=1)
parser.add_argument("--optimizer-step", action="store_true")
parser.add_argument("--never-load", action="store_true")
deepspeed.add_config_arguments(parser)
args = parser.parse_args()
rank, how, at = args.end.split(":")

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(32, args.width), torch.nn.ReLU(), torch.nn.Linear(args.width, 32)
)
engine, optimizer, _, _ = deepspeed.initialize(
    args=args, model=net, model_parameters=net.parameters()
)
folder = Path(os.environ["DSJOB_CHECKPOINT_DIR"])
path, state = (None, None) if args.never_load else engine.load_checkpoint(str(folder))
start = (state or {}).get("step", 0)
names = (
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE LOCAL_SIZE CROSS_RANK CROSS_SIZE "
    "OMP_NUM_THREADS DS_ACCELERATOR DSJOB_ATTEMPT DSJOB_RUN DSJOB_RESTART MASTER_PORT"
).split()
said = {name: os.environ[name] for name in names}
said["ACCELERATE_USE_DEEPSPEED"] = os.environ.get("ACCELERATE_USE_DEEPSPEED")
said |= {
    "argv": sys.argv[1:],
    "cwd": str(Path.cwd()),
    "start": start,
    "rank_count": torch.distributed.get_world_size(),
    "parent": os.getppid(),
    "cores": sorted(os.sched_getaffinity(0)),
}
print(json.dumps(said), flush=True)


def kill_here(*_: object, **__: object) -> None:
    """Stands in for torch.save: the end comes before the file is whole."""
    os.kill(os.getpid(), signal.SIGKILL)


def is_time(step: int) -> bool:
    """Whether this rank ends at this step of this start."""
    is_early = int(os.environ["DSJOB_RESTART"]) < args.times and os.environ["DSJOB_ATTEMPT"] == "1"
    return is_early and int(rank) == engine.global_rank and int(at) == step


def end_here(step: int) -> None:
    """End as told."""
    if not is_time(step):
        return
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise ValueError("told to fail")
    if how == "leave":
        os._exit(0)


for step in range(start + 1, args.steps + 1):
    x = torch.randn(4, 32)
    loss = ((engine(x) - x) ** 2).mean()
    engine.backward(loss)
    optimizer.step() if args.optimizer_step else engine.step()
    if step % args.save_every == 0:
        if how == "save" and is_time(step):
            torch.save = kill_here
        engine.save_checkpoint(str(folder), tag=args.tag.format(step), client_state={"step": step})
    end_here(step)
engine.monitor.write_events([("Eval/accuracy", 0.75, engine.global_samples)])
