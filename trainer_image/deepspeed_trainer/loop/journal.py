"""A rank's record of its steps on the storage, written without waiting for the device at each.

Losses and gradient norms stay on the device until a save, which waits anyway, or until some
seconds have passed; then all of them come over in one copy.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from deepspeed_trainer.fingerprint.record import (
    MAX_FIGURES,
    START_OF_START,
    Start,
    Step,
    hash_ids,
    to_bits,
)

FLUSH_S: Final = 5.0
"""How old a record may get before it is read from the device: seldom against any step that is
short enough for a wait to matter, often enough for who reads along."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A step whose figures are still on the device."""

    step: int
    position: int
    ids: tuple[int, ...]
    losses: tuple[Any, ...]
    norm: Any


class Journal:
    """Appends to one rank's file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chain = ""
        self._start = ""
        self._since_save: list[str] = []
        self._waiting: list[_Waiting] = []
        self._flushed_at = time.monotonic()

    @staticmethod
    def count_starts(path: Path) -> int:
        """Return how often a rank has started in a file."""
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return 0
        return sum(line.startswith(START_OF_START) for line in lines)

    def begin(self, start: Start) -> None:
        """Write down a start; what was not flushed before it is dropped."""
        self._chain = start.chain
        self._waiting.clear()
        self._since_save.clear()
        self._start = start.to_line()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append([self._start])

    def note(
        self, step: int, position: int, ids: Iterable[int], losses: Sequence[Any], norm: Any
    ) -> None:
        """Take a step; `losses` and `norm` may be tensors of one element or None."""
        kept = tuple(losses)[-MAX_FIGURES:]
        self._waiting.append(_Waiting(step, position, tuple(ids), kept, norm))
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> str:
        """Write what waits down and return the hash of everything so far."""
        self._flushed_at = time.monotonic()
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return self._chain
        figures = iter(
            _read_all([value for each in waiting for value in (*each.losses, each.norm)])
        )
        lines = []
        for each in waiting:
            losses = tuple(next(figures) for _ in each.losses)
            step = Step(
                step=each.step,
                position=each.position,
                ids=hash_ids(each.ids),
                losses=losses,
                norm=next(figures),
            ).chained(self._chain)
            self._chain = step.chain
            lines.append(step.to_line())
        self._append(lines)
        self._since_save.extend(lines)
        return self._chain

    def take_since_save(self) -> tuple[str, ...]:
        """Return the start and the steps written since the last call, for a save to keep."""
        taken, self._since_save = self._since_save, []
        return (self._start, *taken)

    def _append(self, lines: Sequence[str]) -> None:
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill cut the last line
                    file.write(b"\n")
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())


def _read_all(values: Sequence[Any]) -> list[str]:
    """Return the bits of figures, empty for None; those on a device come in one copy."""
    is_tensor = [isinstance(value, torch.Tensor) for value in values]
    tensors = [value.reshape(()) for value in values if isinstance(value, torch.Tensor)]
    kinds = {torch.float64} & {tensor.dtype for tensor in tensors} or {torch.float32}
    (kind,) = kinds  # float32 holds every narrower kind exactly
    by_device: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(index)
    found: dict[int, float] = {}
    for indices in by_device.values():
        stacked = torch.stack([tensors[index].to(kind) for index in indices])
        found.update(zip(indices, stacked.tolist(), strict=True))
    read = iter(found[index] for index in range(len(tensors)))
    return [
        to_bits(next(read)) if was_tensor else ("" if value is None else to_bits(float(value)))
        for value, was_tensor in zip(values, is_tensor, strict=True)
    ]
