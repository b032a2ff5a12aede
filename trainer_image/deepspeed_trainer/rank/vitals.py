"""What a supervisor tells of its rank's life: new heartbeats, and the dumps that were ordered.

Dumps go to the job's storage, each rank its own file; only where the rank stands goes to the board.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepspeed_trainer.board.beats import Beat, DumpOrder, Stack
from deepspeed_trainer.contract import STACKS_DIR, RunContract
from deepspeed_trainer.hooks.page import PHASES, Page, Pulse
from deepspeed_trainer.hooks.wire import PAGE_FILE, STACKS_FILE
from deepspeed_trainer.rank import rankenv, stacks
from deepspeed_trainer.rank.facts import Fact


class Vitals:
    """Heartbeats and stacks of one rank."""

    def __init__(
        self,
        contract: RunContract,
        rank: int,
        source: Path | Page,
        bring: Callable[[Path, str], None] = lambda _file, _folder: None,
    ) -> None:
        """`source` is the folder where a child's page and stacks are, or our own process' page.

        `bring` takes a file to a folder of the attempt where the storage is a bucket.
        """
        self._rank = rank
        self._bring = bring
        self._source = source
        self._folder = rankenv.stacks_folder(contract)
        self._told: tuple[int, int] | None = None
        self._dumped = 0
        self._stack: Fact | None = None

    def facts(self) -> list[Fact]:
        """Return what is new since the last call."""
        found, self._stack = ([self._stack] if self._stack else []), None
        pulse = self._read()
        if pulse is None or self._told == (pulse.pid, pulse.beats):
            return found
        self._told = (pulse.pid, pulse.beats)
        return [_beat_of(pulse).to_fact(), *found]

    def obey(self, order: DumpOrder | None) -> None:
        """Take the dump that the board wants, once; it goes out with the next facts."""
        if order is None or order.number == self._dumped:
            return
        self._dumped = order.number
        pulse = self._read()
        if pulse is not None:
            stack = self._dump(pulse, order.name)
            self._stack = {"kind": "stack", "number": order.number, "stack": stack.to_wire()}

    def _dump(self, pulse: Pulse, name: str) -> Stack:
        try:
            stack, text = stacks.take_dump(pulse, self._writer())
        except OSError as error:  # a lost folder or a full disk: the rank is not the worse for it
            sys.stderr.write(f"no stack dump of rank {self._rank}: {error}\n")
            return Stack()
        self._keep(name, text)
        return stack

    def _writer(self) -> stacks.Write:
        if isinstance(self._source, Page):
            return stacks.from_own_process
        return stacks.from_child(self._source / STACKS_FILE)

    def _read(self) -> Pulse | None:
        page = self._source if isinstance(self._source, Page) else self._find_page(self._source)
        return page.read() if page else None

    def _find_page(self, folder: Path) -> Page | None:
        """Open it anew each time: the program may have been started again, or by another."""
        return Page.find(folder / PAGE_FILE)

    def _keep(self, name: str, text: str) -> None:
        if self._folder is None:
            sys.stdout.write("".join(f"[rank {self._rank}] {line}\n" for line in text.splitlines()))
            return
        try:
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"rank-{self._rank:05d}.txt"
            file.write_text(text)
            self._bring(file, f"{STACKS_DIR}/{name}")
        except OSError as error:
            sys.stderr.write(f"no stack dump on the storage: {error}\n")


def _beat_of(pulse: Pulse) -> Beat:
    longest: dict[str, Any] = {
        phase: longest_s
        for phase, longest_s in zip(PHASES, pulse.longest_s, strict=True)
        if longest_s
    }
    return Beat(
        phase=pulse.phase,
        step=pulse.step,
        steps=pulse.steps,
        age_s=max(0.0, time.monotonic() - pulse.entered_at),
        longest_s=longest,
        own_s=pulse.own_s,
    )
