"""Ties a rank's process to its supervisor: when that dies, however it dies, so does the rank.

Without it a rank in a session of its own would live on after SIGKILL of its supervisor and keep
its device's memory.  Below a command every Python is tied to its own parent: a chain down from the
command, which is tied to the supervisor.  When the command itself ends, the supervisor kills its
whole session.
"""

import ctypes
import os
import signal
import threading
import time
from typing import Final

from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV, SUPERVISOR_ENV

LOOK_EVERY_S: Final = 1.0
"""How soon a process below a command sees that its parent is gone."""
_PR_SET_PDEATHSIG: Final = 1


def die_with_supervisor() -> None:
    """End this process when its supervisor does or, below a command, when its parent does.

    Raises:
        OSError: the kernel refuses.
    """
    parent = os.getppid()
    if os.environ.get(SUPERVISOR_ENV) == str(parent):
        _ask_for_sigkill(parent)
    elif DESCENDANTS_ENV in os.environ:
        # The kernel's signal follows the thread that started us.  A supervisor's thread stays, but
        # a program may well start a process from a thread that ends before it.
        threading.Thread(target=_follow, args=(parent,), name="tether", daemon=True).start()


def _ask_for_sigkill(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        _die()  # it died in between


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
