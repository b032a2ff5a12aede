"""Two ranks that train nothing, over gloo alone: heartbeats as the hooks write them, no DeepSpeed.

`gloo.py FOLDER HOW`: rank 1 does HOW after its fifth step; from then on both count steps for ever.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Work

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks import stackdump
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.wire import PAGE_FILE, STACKS_FILE

SHORT_S = 9
# As the kernel does with a CPU limit of half a core: so long it runs, so long it does not.
THROTTLE = "while sleep 0.05; do kill -STOP {0}; sleep 0.05; kill -CONT {0} || exit; done"

folder, how = Path(sys.argv[1]), sys.argv[2]
stackdump.install(folder / STACKS_FILE)
heart = Heartbeat(functools.partial(Page.create, folder / PAGE_FILE), print)
heart.watch_waits(Work)
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
meeting = f"file://{folder.parent / 'meeting'}"
dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
sent, got = torch.ones(4), torch.ones(8)
work, product = torch.randn(256, 256), torch.empty(256, 256)


def train(step: int) -> None:
    heart.enter(Phase.FORWARD)
    for _ in range(8):
        torch.mm(work, work, out=product)
    dist.all_gather_into_tensor(got, sent)
    heart.leave()
    heart.note_step(step)


def in_background(script: str) -> None:
    subprocess.Popen(["sh", "-c", script.format(os.getpid())], start_new_session=True)


def stop_for_a_while() -> None:
    in_background(f"sleep {SHORT_S}; kill -CONT {{0}}")
    os.kill(os.getpid(), signal.SIGSTOP)


HOW = {
    "sleep": lambda: time.sleep(600),
    "barrier": dist.barrier,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "short": stop_for_a_while,
    "throttle": lambda: in_background(THROTTLE),
    "even": lambda: None,
}
for step in range(1, 1_000_000):
    train(step)
    if step == 5 and rank == 1:
        HOW[how]()
