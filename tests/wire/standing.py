"""A rank without DeepSpeed: it has one heartbeat, and then stands in the way it is told."""

import functools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks import stackdump
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.wire import PAGE_FILE, STACKS_FILE

BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""A process that works as long as the one that started it is there."""


def stand_here() -> None:
    threading.Event().wait()


def stand_in_native_code() -> None:
    sum(range(10**12))


def move() -> None:
    while True:
        time.sleep(0.001)
        for turn in range(50):
            globals()[f"at_{turn % 2}"]()


def at_0() -> None:
    time.sleep(0.001)


def at_1() -> None:
    time.sleep(0.001)


def wait_for_child() -> None:
    subprocess.run([sys.executable, "-c", BUSY], check=False)


class Work:
    def wait(self) -> None:
        stand_here()


how, folder = sys.argv[1], Path(sys.argv[2])
if how == "taken":
    signal.signal(stackdump.DUMP_SIGNAL, lambda *_: print("the program's own", flush=True))
installed = stackdump.install(folder / STACKS_FILE)
if how == "unhandled":
    signal.signal(stackdump.DUMP_SIGNAL, signal.SIG_DFL)
heart = Heartbeat(functools.partial(Page.create, folder / PAGE_FILE), print)
heart.watch_waits(Work)
heart.enter(Phase.FORWARD)
print("installed" if installed else "left alone", flush=True)
HOW = {
    "native": stand_in_native_code,
    "move": move,
    "child": wait_for_child,
    "collective": Work().wait,
}
HOW.get(how, stand_here)()
