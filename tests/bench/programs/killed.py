"""ZeRO-3 on two ranks that saves now and then; rank 1 kills itself as often as told.

Each rank writes down when it began, had its engine and its checkpoint, did its first step and was
killed: a JSON line each, with seconds since the epoch, in a file of its own in `--notes`.
"""

import time

began_at = time.time()

import argparse  # noqa: E402  the imports are part of a start
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
from pathlib import Path  # noqa: E402

import deepspeed  # noqa: E402
import torch  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--notes", type=Path)
parser.add_argument("--kills", type=int, default=5)
parser.add_argument("--save-every", type=int, default=10)
deepspeed.add_config_arguments(parser)
args = parser.parse_args()
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
notes = args.notes / f"rank-{rank}.jsonl"


def note(event: str, step: int = 0, at: float | None = None) -> None:
    """Write down that something has just happened."""
    with notes.open("a") as file:
        told = {"event": event, "step": step, "at": at or time.time()}
        file.write(json.dumps(told) + "\n")


def count(event: str) -> int:
    """How often it has happened, in all starts together."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return sum(json.loads(line)["event"] == event for line in lines)


note("began", at=began_at)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256))
engine, *_ = deepspeed.initialize(args=args, model=net, model_parameters=net.parameters())
note("engine")
folder = os.environ["DSJOB_CHECKPOINT_DIR"]
_, state = engine.load_checkpoint(folder)
start = (state or {}).get("step", 0)
note("loaded", start)
kills = count("killed")
for step in range(start + 1, args.save_every * (args.kills + 1) + 1):
    batch = torch.randn(4, 256)
    engine.backward(((engine(batch) - batch) ** 2).mean())
    engine.step()
    if step == start + 1:
        note("first step", step)
    if step % args.save_every == 0:
        engine.save_checkpoint(folder, tag=f"step{step}", client_state={"step": step})
    # A while after the save: it has come to count, and some steps are lost.
    time.sleep(0.2)
    is_last = rank == world - 1
    if is_last and kills < args.kills and step == args.save_every * (kills + 2) - 1:
        note("killed", step)
        os.kill(os.getpid(), signal.SIGKILL)
