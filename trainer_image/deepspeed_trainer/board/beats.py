"""What a rank's supervisor tells of its life: heartbeats by phase, and what a stack dump showed.

Pure; the words that travel from the rank to the board and mean the same on both ends.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, Self


class Phase(StrEnum):
    """What a rank's training thread is in."""

    PROGRAM = "program"
    """The program's own code, between two of the phases below."""
    FORWARD = "forward"
    BACKWARD = "backward"
    STEP = "step"
    EVAL = "eval"
    """A forward without gradients."""
    SAVE = "save"
    LOAD = "load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The last heartbeat of a rank."""

    phase: Phase
    """The phase that it is in since the last heartbeat."""
    step: int
    """Optimizer step that was done last, those before a resume included."""
    steps: int
    """Optimizer steps that this process has done."""
    age_s: float
    """Seconds since the heartbeat."""
    longest_s: Mapping[str, float] = field(default_factory=dict)
    """By phase: the longest of its last stays; a phase that was never left is not named."""
    own_s: float = 0.0
    """Seconds of all steps together without waiting for other ranks, saving, loading and eval."""

    def to_fact(self) -> dict[str, Any]:
        """Return the fact."""
        return {"kind": "beat", **asdict(self)}

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> Self:
        """Read the fact."""
        plain = {name: fact[name] for name in cls.__slots__}
        return cls(**{**plain, "phase": Phase(fact["phase"])})


STOPPED_STATES: Final = frozenset("Tt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What one dump said of one rank; numbers are those of its process and all below it."""

    state: str = "?"
    """Letter of /proc/PID/stat: R runs, S sleeps, D waits for a disk, T is stopped."""
    fingerprint: str | None = None
    """Equal when the stacks are; None when no stack could be taken."""
    place: str | None = None
    """The innermost line of the program's own files, `train.py:88`."""
    waits_in: str | None = None
    """The collective that the training thread waits in."""
    cpu_s: float = 0.0
    io_bytes: int = 0
    answered: bool = True
    """False stands for a rank whose supervisor did not answer."""

    def to_wire(self) -> dict[str, Any]:
        """Return the object for a `stack` fact."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DumpOrder:
    """An order to take a stack dump; `name` is a folder below the attempt's stacks."""

    number: int
    name: str
