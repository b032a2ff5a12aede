"""Ties a rank's process to its supervisor: when that dies, however it dies, so does the rank.

Without it a rank in a session of its own would live on after SIGKILL of its supervisor and keep
its device's memory.
"""

import ctypes
import os
import signal
from typing import Final

from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV, SUPERVISOR_ENV

_PR_SET_PDEATHSIG: Final = 1


def die_with_supervisor() -> None:
    """Ask the kernel for SIGKILL when the supervisor's thread that started us ends.

    Raises:
        OSError: the kernel refuses.
    """
    parent = os.getppid()
    is_rank = os.environ.get(SUPERVISOR_ENV) == str(parent)
    # Below a command every Python is tied to its own parent: a chain down from the command.
    if not is_rank and DESCENDANTS_ENV not in os.environ:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # the parent died in between
