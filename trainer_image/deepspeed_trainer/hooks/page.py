"""The heartbeat page of a rank: a few numbers in shared memory.

The program's hook writes them, its supervisor reads them whenever it likes.  A heartbeat so costs
the program a few stores and no system call, and the last one can be read after the program hangs
or has died.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from deepspeed_trainer.board.beats import Phase

PHASES: Final = tuple(Phase)
(TURN, PID, THREAD, BEATS, PHASE, ENTERED_AT, STEP, STEPS, OWN_S, LONGEST_S) = range(10)
"""Cells of the page, all of them 64-bit floats; from LONGEST_S on one for each phase."""
CELLS: Final = LONGEST_S + len(PHASES)
_BYTES: Final = 8 * CELLS
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Pulse:
    """One reading of a page; times are seconds of the machine's monotonic clock."""

    pid: int
    thread: int
    beats: int
    phase: Phase
    entered_at: float
    step: int
    steps: int
    own_s: float
    longest_s: tuple[float, ...]
    """By the order of PHASES; 0 where a phase was never left."""


class Page:
    """The shared numbers; one process writes, any may read."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.cells = memoryview(memory).cast("d")

    @classmethod
    def create(cls, path: Path) -> Self:
        """Return the empty page of a process that is about to write.

        It replaces one that is there: whoever still reads that one is not harmed.

        Raises:
            OSError: the file cannot be made.
        """
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with beside.open("w+b") as file:
            file.truncate(_BYTES)
            page = cls(mmap.mmap(file.fileno(), _BYTES))
        beside.replace(path)
        return page

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Return the page that a process writes, or None when there is none yet."""
        try:
            with path.open("rb") as file:
                return cls(mmap.mmap(file.fileno(), _BYTES, prot=mmap.PROT_READ))
        except FileNotFoundError:
            return None

    @classmethod
    def anonymous(cls) -> Self:
        """Return a page for writer and reader in one process."""
        return cls(mmap.mmap(-1, _BYTES))

    def read(self) -> Pulse | None:
        """Return the last heartbeat; None before the first, or while it is being written."""
        for _ in range(_TRIES):
            turn = self.cells[TURN]
            found = self.cells.tolist()
            if turn % 2 == 0 and self.cells[TURN] == turn:
                return _to_pulse(found) if found[BEATS] else None
        return None


def _to_pulse(cells: Sequence[float]) -> Pulse:
    return Pulse(
        pid=int(cells[PID]),
        thread=int(cells[THREAD]),
        beats=int(cells[BEATS]),
        phase=PHASES[int(cells[PHASE])],
        entered_at=cells[ENTERED_AT],
        step=int(cells[STEP]),
        steps=int(cells[STEPS]),
        own_s=cells[OWN_S],
        longest_s=tuple(cells[LONGEST_S:]),
    )
