"""Ties a rank's process to its supervisor: when that dies, however it dies, so does the rank.

Without it a rank in a session of its own would live on after SIGKILL of its supervisor and keep
its device's memory.  `python -m deepspeed_trainer.tether COMMAND…` ties a command that need not be
Python and becomes it.
"""

import ctypes
import os
import signal
import sys
from typing import Final

from deepspeed_trainer.hook import DESCENDANTS_ENV, SUPERVISOR_ENV

EXIT_NOT_STARTED: Final = 127
"""The shell's own exit code for a command that is not there."""

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


def main() -> int:
    """Become the command of the arguments; the tie was made before the first line, and stays."""
    command = sys.argv[1:]
    try:
        os.execvp(command[0], command)  # noqa: S606  no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot start '{command[0]}': {error.strerror}\n")
    return EXIT_NOT_STARTED


if __name__ == "__main__":
    sys.exit(main())
