"""Ties a rank's process to its supervisor: when that dies, however it dies, so does the rank.

Without it a rank in a session of its own would live on after SIGKILL of its supervisor and keep
its device's memory.
"""

import ctypes
import os
import signal
from typing import Final

from deepspeed_trainer.hook import SUPERVISOR_ENV

_PR_SET_PDEATHSIG: Final = 1


def die_with_supervisor() -> None:
    """Ask the kernel for SIGKILL when the supervisor's thread that started us ends.

    Raises:
        OSError: the kernel refuses.
    """
    supervisor = os.environ.get(SUPERVISOR_ENV)
    if supervisor != str(os.getppid()):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(supervisor):
        os.kill(os.getpid(), signal.SIGKILL)  # the supervisor died in between
