"""What can go wrong, as one small tree. Every message says what, why, and what to do.

DevclusterError
├── Missing          the machine lacks something that we cannot provide
├── StepFailed       a step of set-up failed; carries the path of its full log
├── Interrupted      a step was stopped because another failed or the user asked
├── Unhealthy        a component ended or did not become ready in time
├── Refused          the API server said no
└── WrongUse         the request contradicts what is there
"""

from pathlib import Path


class DevclusterError(Exception):
    """Base of everything that this package raises on purpose."""


class Missing(DevclusterError):
    """The machine lacks a program, a package or a right."""


class StepFailed(DevclusterError):
    """A named step failed; its whole output is in `log`."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        super().__init__(f"{name}: {reason} (whole log: {log})")
        self.name, self.reason, self.log = name, reason, log


class Interrupted(DevclusterError):
    """The step was told to stop."""


class Unhealthy(DevclusterError):
    """A component is not running or not ready; the message ends with its last log lines."""


class Refused(DevclusterError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WrongUse(DevclusterError):
    """The request cannot be done as asked."""
