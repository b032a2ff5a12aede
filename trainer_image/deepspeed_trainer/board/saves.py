"""Saves on their way to a commit: which ranks hold them, which have brought them. Pure.

Ranks save in step, so the n-th save of one rank is the n-th of all.  A save that all ranks hold may
be brought to the storage; one is on its way at a time, and of those that wait only the newest is
kept, so that a slow storage costs checkpoints and never the training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from deepspeed_trainer.batching import Batch
from deepspeed_trainer.manifest import NOT_LOOKED_AT, ManifestFile

_SAME_ON_ALL: Final = ("path", "tag", "step")


@dataclass(slots=True)
class Save:
    """One save of all ranks; `path` is where it shall lie below the storage's root."""

    number: int
    path: str
    tag: str
    step: int
    zero_stage: int
    source: str
    is_report: bool
    batch: Batch | None = None
    unresizable: str = NOT_LOOKED_AT
    """Why it cannot be converted for another number of ranks; empty when it can."""
    held: set[int] = field(default_factory=set)
    files: dict[int, tuple[ManifestFile, ...]] = field(default_factory=dict)
    without_files: set[int] = field(default_factory=set)
    """Ranks that had no file to add."""
    blocked_s: float = 0.0
    """Longest time that a rank's program waited for its files to be held."""

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> Self:
        """Read a `closed` fact."""
        names = ("number", "path", "tag", "step", "zero_stage", "source")
        batch = fact.get("batch")
        return cls(
            **{name: fact[name] for name in names},
            is_report=fact["report"],
            batch=Batch(**batch) if batch else None,
            unresizable=fact.get("unresizable", NOT_LOOKED_AT),
        )

    def differs_from(self, fact: Mapping[str, Any]) -> str | None:
        """Return the name in which another rank's `closed` fact is not the same, or None."""
        return next((name for name in _SAME_ON_ALL if getattr(self, name) != fact[name]), None)


class OpenSaves:
    """All saves of an attempt that are neither committed nor given up."""

    def __init__(self, world_size: int) -> None:
        self.replaced = 0
        """Saves that never counted because a newer one was there before their turn came."""
        self.has_litter = True
        """Whether files may lie on the storage that never count: also from rounds before."""
        self.skipped = 0
        """Saves that were not held, because the pod's disk had no room for more that wait."""
        self.skipped_for: str | None = None
        """Why the last of them was not."""
        self._world_size = world_size
        self._open: dict[int, Save] = {}
        self._current: int = 0
        self._settled: set[int] = set()

    def note_closed(self, rank: int, fact: Mapping[str, Any]) -> str | None:
        """A rank holds a save; return why it is given up when the ranks do not agree on it."""
        number = int(fact["number"])
        if number in self._settled:
            return None
        save = self._open.setdefault(number, Save.from_fact(fact))
        save.held.add(rank)
        save.blocked_s = max(save.blocked_s, float(fact["blocked_s"]))
        if not fact["size_bytes"]:
            save.without_files.add(rank)
        name = save.differs_from(fact)
        if name is None:
            return None
        self.give_up(number)
        return (
            f"save {number}: rank {rank} has {name} {fact[name]!r}, others have"
            f" {getattr(save, name)!r}; all ranks must save under one name"
        )

    def note_brought(self, rank: int, number: int, files: tuple[ManifestFile, ...]) -> Save | None:
        """A rank's files are on the storage; return the save when all ranks' are."""
        save = self._open.get(number)
        if save is None:
            return None
        save.files[rank] = files
        if len(save.files) < self._world_size:
            return None
        self._settle(number)
        return save

    def give_up(self, number: int) -> Save | None:
        """Forget a save, because a rank cannot bring it; returns it when it was still open."""
        save = self._open.get(number)
        self._settle(number)
        self.has_litter = True
        return save

    def note_skipped(self, reason: str) -> None:
        """A rank has not held a save for want of room in its pod."""
        self.skipped += 1
        self.skipped_for = reason

    def find_notice(self) -> str | None:
        """Return a sentence on saves that were skipped, or None."""
        if not self.skipped:
            return None
        return f"saves skipped: {self.skipped}, the last at {self.skipped_for}"

    def drop_partial(self) -> None:
        """Forget what some ranks will never hold, because they have ended."""
        for number in [n for n, save in self._open.items() if len(save.held) < self._world_size]:
            self._settle(number)

    def is_settled(self, number: int) -> bool:
        """Whether a save was committed or given up."""
        return number in self._settled

    def without_files(self, number: int) -> frozenset[int]:
        """Return the ranks that have told that they had no file to add to a save."""
        return frozenset(self._open[number].without_files if number in self._open else ())

    @property
    def newest(self) -> int:
        """The newest save that all ranks hold; nobody will be asked for an older one."""
        complete = [n for n, save in self._open.items() if len(save.held) == self._world_size]
        return max(complete, default=0)

    def choose_upload(self) -> int:
        """Return the save that all ranks shall bring to the storage now; 0 for none.

        Those that are older than a save that is chosen here will never count.
        """
        if self._current not in self._open:
            newest = self.newest
            self._current = newest if newest in self._open else 0
            self._skip_older()
        return self._current

    @property
    def is_waiting(self) -> bool:
        """Whether some save is held by all ranks and not on the storage yet."""
        return any(len(save.held) == self._world_size for save in self._open.values())

    def _skip_older(self) -> None:
        for number in [number for number in self._open if number < self._current]:
            self._settle(number)
            self.replaced += 1

    def _settle(self, number: int) -> None:
        self._open.pop(number, None)
        self._settled.add(number)
