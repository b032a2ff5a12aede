"""Heartbeats of a rank: which phase it is in, since when, and how long its phases last.

Entering and leaving a phase is a heartbeat, written to the rank's page.  Beside it the time of a
step is split: what was spent waiting for other ranks, in `Work.wait` of torch.distributed, is
taken off, so that a rank that is slow by itself can be told from those that wait for it.
"""

import functools
import os
import time
from collections.abc import Callable
from threading import get_ident as _thread_id
from typing import Any, Final

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks import page as cell
from deepspeed_trainer.hooks.page import PHASES, Page
from deepspeed_trainer.hooks.wire import Report

WINDOW: Final = 32
"""Stays in a phase after which the longest of them starts to be forgotten; one that was slow once
does not make the rank's limits long for ever."""
_NUMBER: Final = {phase: number for number, phase in enumerate(PHASES)}
_PROGRAM: Final = _NUMBER[Phase.PROGRAM]
_ASIDE: Final = frozenset(_NUMBER[phase] for phase in (Phase.SAVE, Phase.LOAD, Phase.EVAL))
"""Phases that are no part of a step's time."""


class Heartbeat:
    """Writes the heartbeats of the one thread that trains; others are not heard.

    A failure of ours ends the heartbeats, never the program's work.
    """

    def __init__(
        self,
        open_page: Callable[[], Page],
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_page = open_page
        self._report = report
        self._clock = clock
        self._thread: int | None = None
        self._is_off = False
        self._outer: list[int] = []
        self._beats = 0
        self._phase = _PROGRAM
        self._entered_at = 0.0
        self._stays = [0] * len(PHASES)
        self._longest = [0.0] * len(PHASES)
        self._before = [0.0] * len(PHASES)
        self._step_began_at = 0.0
        self._waited_s = 0.0
        self._aside_s = 0.0

    def around(
        self, owner: Any, name: str, phase: Phase, choose: Callable[[Any], Phase] | None = None
    ) -> None:
        """Make a method a phase; `choose` says which one by the object that it is called on."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def with_heartbeats(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase if choose is None else choose(args[0]))
            try:
                return original(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, with_heartbeats)

    def watch_waits(self, work: Any) -> None:
        """Take the time that a class of handles waits for other ranks."""
        original, clock = work.wait, self._clock

        @functools.wraps(original)
        def wait(*args: Any, **kwargs: Any) -> Any:
            began = clock()
            try:
                return original(*args, **kwargs)
            finally:
                if self._phase not in _ASIDE and _thread_id() == self._thread:
                    self._waited_s += clock() - began

        work.wait = wait

    def enter(self, phase: Phase) -> None:
        """A phase begins, inside of the one that is on."""
        if _thread_id() == self._thread or self._is_first():
            self._outer.append(self._phase)
            self._turn_to(_NUMBER[phase])

    def leave(self) -> None:
        """The phase that began last ends; the one around it goes on."""
        if _thread_id() == self._thread and self._outer:
            self._turn_to(self._outer.pop())

    def note_step(self, done: int) -> None:
        """An optimizer step of the engine that counts was done."""
        if _thread_id() != self._thread:
            return
        cells, now = self._cells, self._clock()
        own_s = now - self._step_began_at - self._waited_s - self._aside_s
        cells[cell.TURN] += 1
        cells[cell.STEP] = done
        cells[cell.STEPS] += 1
        cells[cell.OWN_S] += max(0.0, own_s)
        cells[cell.TURN] += 1
        self._begin_step(now)

    def start_from(self, step: int) -> None:
        """A load brought this step back."""
        if self._thread is not None:
            self._cells[cell.STEP] = step

    def _is_first(self) -> bool:
        """Open the page for the first thread that comes; True when it now is this one's."""
        if self._thread is not None or self._is_off:
            return False
        try:
            self._cells = self._open_page().cells
        except OSError as error:
            self._is_off = True
            self._report({"kind": "hook", "failure": f"no heartbeats: {error!r}"[:500]})
            return False
        self._thread = _thread_id()
        self._cells[cell.PID] = os.getpid()
        self._cells[cell.THREAD] = self._thread
        self._entered_at = self._clock()
        self._begin_step(self._entered_at)
        return True

    def _begin_step(self, now: float) -> None:
        self._step_began_at, self._waited_s, self._aside_s = now, 0.0, 0.0

    def _turn_to(self, phase: int) -> None:
        now, left, cells = self._clock(), self._phase, self._cells
        stay_s = now - self._entered_at
        if left in _ASIDE:
            self._aside_s += stay_s
        longest_s = self._note_stay(left, stay_s)
        self._phase, self._entered_at = phase, now
        self._beats += 1
        cells[cell.TURN] = turn = cells[cell.TURN] + 1
        cells[cell.LONGEST_S + left] = longest_s
        cells[cell.BEATS] = self._beats
        cells[cell.PHASE] = phase
        cells[cell.ENTERED_AT] = now
        cells[cell.TURN] = turn + 1

    def _note_stay(self, phase: int, stay_s: float) -> float:
        """Return the longest of the phase's last stays, between WINDOW and twice as many."""
        stays = self._stays[phase] = self._stays[phase] + 1
        if stays % WINDOW == 0:
            self._before[phase], self._longest[phase] = self._longest[phase], 0.0
        longest, before = self._longest[phase], self._before[phase]
        if stay_s > longest:
            longest = self._longest[phase] = stay_s
        return max(before, longest)
