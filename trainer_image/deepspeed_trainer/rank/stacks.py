"""Taking a stack dump of a rank: from its own handler, from the kernel, and from py-spy if it may.

Where the rank is a child, a signal makes it write; where it is Ray's worker, a thread beside it
does.  What the kernel tells of its threads comes first and needs no help of the program.
"""

import faulthandler
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from deepspeed_trainer.board.beats import STOPPED_STATES, Stack
from deepspeed_trainer.hooks.page import Pulse
from deepspeed_trainer.hooks.stackdump import DUMP_SIGNAL
from deepspeed_trainer.rank.frames import read_where
from deepspeed_trainer.rank.proc import catches, describe_process, read_process

DUMP_S: Final = 3.0
"""How long a rank may take to write its stacks."""
POLL_S: Final = 0.05
PY_SPY_S: Final = 10.0

Write = Callable[[Pulse, str], str]
"""Returns the stacks of a rank as text, empty when there are none."""


def take_dump(pulse: Pulse, state_and_stacks: Write) -> tuple[Stack, str]:
    """Return what a dump says, and the whole text for the storage."""
    process = read_process(pulse.pid)
    if process is None:
        return Stack(answered=False), f"process {pulse.pid} is gone\n"
    stacks = state_and_stacks(pulse, process.state)
    where = read_where(stacks, pulse.thread)
    if where is not None and where.asks_supervisor:
        process = read_process(pulse.pid, os.getpid()) or process
    stack = Stack(
        state=process.state,
        fingerprint=where.fingerprint if where else None,
        place=where.place if where else None,
        waits_in=where.waits_in if where else None,
        cpu_s=process.cpu_s,
        io_bytes=process.io_bytes,
    )
    told = stacks or "the process wrote no stacks\n"
    text = f"training thread 0x{pulse.thread:x} of process {pulse.pid}, phase {pulse.phase}\n"
    return stack, f"{text}\n{describe_process(pulse.pid)}\n\n{told}\n{_spy(pulse.pid)}"


def from_child(path: Path) -> Write:
    """Return how a child's stacks are taken; its handler writes to this file."""

    def write(pulse: Pulse, state: str) -> str:
        # Never a signal to a process that would not catch it, nor one more to a stopped one.
        if state in STOPPED_STATES or not path.exists() or not catches(pulse.pid, DUMP_SIGNAL):
            return ""
        os.truncate(path, 0)
        os.kill(pulse.pid, DUMP_SIGNAL)
        return _read_when_written(path)

    return write


def from_own_process(_pulse: Pulse, _state: str) -> str:
    """Take the stacks of this process' own threads."""
    with TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _read_when_written(path: Path) -> str:
    """Return the text once it has not grown for two looks."""
    deadline, sizes = time.monotonic() + DUMP_S, [0, 0]
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        sizes = [*sizes[-2:], path.stat().st_size]
        if sizes[0] and len(set(sizes)) == 1:
            break
    return path.read_text(errors="replace")


def _spy(pid: int) -> str:
    """Return what py-spy adds: the same stacks with the names of threads, or why it may not look.

    Nothing is decided by it.
    """
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return ""
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PY_SPY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"py-spy: {error}\n"
    return f"py-spy:\n{done.stdout or done.stderr}"
