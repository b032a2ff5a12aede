"""`python -m deepspeed_trainer.rank.command WORD…` becomes a command that need not be Python.

It starts as Python, so that our sitecustomize ties it to its supervisor (see `tether`) before its
first line; the tie outlives the change into the command.
"""

import os
import sys
from typing import Final

EXIT_NOT_STARTED: Final = 127
"""The shell's own exit code for a command that is not there."""


def main() -> int:
    """Become the command of the arguments; returns only when it cannot be started."""
    command = sys.argv[1:]
    try:
        os.execvp(command[0], command)  # noqa: S606  no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot start '{command[0]}': {error.strerror}\n")
    return EXIT_NOT_STARTED


if __name__ == "__main__":
    sys.exit(main())
