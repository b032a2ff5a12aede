"""How a command ends: its exit codes, and the errors that lead to them.

CliError
├── Refused       1  the job failed, or the server refused what was asked for, or it is not there
├── WrongUse      2  what was typed or written cannot be meant
├── Unavailable   3  what the command needs is not to be had: the cluster, a package
│   ├── Denied       the caller lacks a right; asking again cannot help
│   └── Overwhelmed  the server answers 429 or 5xx; asking again may help
└── TooLate       4  the deadline passed before the job's end
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar, Self


class Exit(IntEnum):
    """Exit codes of every verb, each with its meaning."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member: its code, and what the reference says of it."""
        found = int.__new__(cls, code)
        found._value_ = code
        found.meaning = meaning
        return found

    DONE = 0, "What was asked for was done. A job that was followed is Complete."
    FAILED = 1, "The job failed, or what was asked for was refused or is not there."
    WRONG_USE = 2, "The command line or a file cannot be used as it is."
    UNAVAILABLE = 3, "The cluster cannot be reached or denies the right, or a package is missing."
    TOO_LATE = (
        4,
        "The time of --timeout passed. A job in a cluster goes on, a local run is stopped.",
    )
    INTERRUPTED = 130, "Ctrl-C. A job in a cluster goes on, a local run is stopped."
    ENDED = 143, "SIGTERM to a local run, which is stopped."


class CliError(Exception):
    """Ends the command with one sentence, or a few, on the error output."""

    exit_code: ClassVar[Exit] = Exit.FAILED


class Refused(CliError):
    """The server refuses what was asked for; `causes` are (field, message) where it says them."""

    def __init__(
        self, message: str, *, status: int = 0, causes: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.causes = tuple(causes)


class NotThere(Refused):
    """The object, or its kind, does not exist."""


class WrongUse(CliError):
    """The command line or a file cannot be used as it is."""

    exit_code = Exit.WRONG_USE


class Unavailable(CliError):
    """What the command needs is not to be had."""

    exit_code = Exit.UNAVAILABLE


class Denied(Unavailable):
    """The caller lacks a right."""


class Overwhelmed(Unavailable):
    """The server answers that it cannot."""


class TooLate(CliError):
    """The deadline passed before the job's end."""

    exit_code = Exit.TOO_LATE
