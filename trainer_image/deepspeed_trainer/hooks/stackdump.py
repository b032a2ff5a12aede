"""Makes a rank dump its Python stacks on a signal, also while it is blocked in native code.

The signal is SIGURG: its default action is to do nothing, so that a process without our handler
(a shell, a child, a program that took the signal for itself) is not harmed by one.
"""

import ctypes
import faulthandler
import os
import signal
from pathlib import Path
from typing import Final

from deepspeed_trainer.hooks.wire import SUPERVISOR_ENV

DUMP_SIGNAL: Final = signal.SIGURG
_PR_SET_PTRACER: Final = 0x59616D61


def install(path: Path) -> bool:
    """Dump the stacks of all threads to a file whenever the signal comes.

    A handler that is already there stays; then this returns False and only the kernel can be
    asked where the rank is.

    Raises:
        OSError: the file cannot be made.
    """
    _admit_supervisor()
    if signal.getsignal(DUMP_SIGNAL) not in (signal.SIG_DFL, signal.SIG_IGN):
        return False
    # Appends, so that whoever reads may empty it.  It stays open as long as the process lives.
    file = path.open("a")
    _kept_open.append(file)
    faulthandler.register(DUMP_SIGNAL, file, all_threads=True, chain=False)
    return True


_kept_open: Final[list[object]] = []


def _admit_supervisor() -> None:
    """Let the supervisor and what it starts read our memory: some kernels forbid it otherwise."""
    supervisor = os.environ.get(SUPERVISOR_ENV)
    if supervisor is not None:
        # Without this security module the kernel knows no such call: then it is not needed.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(int(supervisor)), 0, 0, 0)
