"""What one rank tells the board: collected from its hook, coalesced, hashed where needed.

The training process only drops facts here and goes on.  Figures replace older figures, everything
else keeps its order; the files of a save are hashed in one background thread.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from deepspeed_trainer.checkpoint import describe_files, describe_own_files, is_below

Fact = Mapping[str, Any]


class FactBuffer:
    """Facts of one rank between its program and the board; safe to use from any thread."""

    def __init__(self, rank: int, storage: str | None, give_up_save: Callable[[str], None]) -> None:
        self._rank = rank
        self._storage = Path(storage) if storage else None
        self._give_up_save = give_up_save
        self._lock = threading.Lock()
        self._facts: list[Fact] = []
        self._step: dict[str, Any] | None = None
        self._metrics: dict[str, str] = {}
        self._save_numbers: dict[str, int] = {}
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")

    def put(self, fact: Fact) -> None:
        """Take a fact. Returns at once, but for `saving`, which waits until the board knows."""
        match fact["kind"]:
            case "step":
                with self._lock:
                    self._step = {**(self._step or {}), **fact}
            case "metrics":
                with self._lock:
                    self._metrics.update(fact["values"])
            case "saving":
                self._give_up_save(fact["folder"])
            case "saved":
                self._take_saved(fact)
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
        """Stop hashing; what is not done is dropped."""
        self._hasher.shutdown(wait=False, cancel_futures=True)

    def _append(self, fact: Fact) -> None:
        with self._lock:
            self._facts.append(fact)

    def _take_saved(self, fact: Fact) -> None:
        folder = fact["folder"]
        if self._storage is None or not is_below(Path(folder), self._storage):
            return  # a save outside the job's storage is the program's own business
        number = self._save_numbers.get(folder, 0) + 1
        self._save_numbers[folder] = number
        numbered = {**fact, "number": number}
        self._append(numbered)
        self._hasher.submit(self._hash, numbered)

    def _hash(self, save: Fact) -> None:
        folder = Path(save["folder"])
        try:
            if "paths" in save:
                files = describe_files(folder, save["paths"], self._rank)
            else:
                files = describe_own_files(folder, self._rank)
        except OSError as error:
            self._append({"kind": "hash_failed", "folder": save["folder"], "message": str(error)})
            return
        wire = [file.to_wire() for file in files]
        self._append({**save, "kind": "hashed", "files": wire})
