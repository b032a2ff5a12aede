"""What one rank tells the board: collected from its hook, coalesced, in its order.

The training process only drops facts here and goes on.  Figures replace older figures; saves are
the keeper's business, and what it has to say comes out here too.
"""

import threading
from collections.abc import Mapping
from typing import Any

from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.rank.keeper import Keeper

Fact = Mapping[str, Any]


class FactBuffer:
    """Facts of one rank between its program and the board; safe to use from any thread."""

    def __init__(self, contract: RunContract, rank: int, restart: int = 0) -> None:
        self.keeper = Keeper(contract, rank, restart, self._append)
        self._lock = threading.Lock()
        self._facts: list[Fact] = []
        self._step: dict[str, Any] | None = None
        self._metrics: dict[str, str] = {}

    def put(self, fact: Fact) -> None:
        """Take a fact. Returns at once, but for a save: that waits until its files are held."""
        match fact["kind"]:
            case "step":
                with self._lock:
                    self._step = {**(self._step or {}), **fact}
            case "metrics":
                with self._lock:
                    self._metrics.update(fact["values"])
            case "saved":
                self.keeper.note_saved(fact)
            case "save_whole":
                self.keeper.note_whole()
            case "save_end":
                self.keeper.note_closed()
            case "unsaved":
                self.keeper.forget_below(fact["folder"])
            case _:
                self._append(fact)

    def drain(self) -> list[Fact]:
        """Return what is new since the last call."""
        with self._lock:
            facts, self._facts = self._facts, []
            if self._step is not None:
                facts.append(self._step)
            if self._metrics:
                facts.append({"kind": "metrics", "values": self._metrics})
            self._step, self._metrics = None, {}
        return facts

    def close(self) -> None:
        """Stop bringing saves to the storage; what is not done is dropped."""
        self.keeper.close()

    def _append(self, fact: Fact) -> None:
        with self._lock:
            self._facts.append(fact)
