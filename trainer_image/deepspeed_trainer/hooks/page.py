"""The heartbeat page of a rank: a few numbers in shared memory.

The program's hook writes them, its supervisor reads them whenever it likes.  A heartbeat so costs
the program a few stores and no system call, and the last one can be read after the program hangs
or has died.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks.cells import SharedCells

PHASES: Final = tuple(Phase)
(TURN, PID, THREAD, BEATS, PHASE, ENTERED_AT, STEP, STEPS, OWN_S, LONGEST_S) = range(10)
"""Cells of the page, all of them 64-bit floats; from LONGEST_S on one for each phase."""
CELLS: Final = LONGEST_S + len(PHASES)
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


class Page(SharedCells):
    """The shared numbers; one process writes, any may read."""

    COUNT = CELLS

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
