"""Saves that are on their way to a commit: which ranks have saved, which have hashed. Pure.

A save is known by its folder and by how often the folder was saved to; it can be committed when
every rank of the attempt has described its own files.  A newer save into the same folder replaces
one that is still open.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from deepspeed_trainer.manifest import ManifestFile


@dataclass(slots=True)
class Save:
    """One save of all ranks into `folder` (an absolute path), the `number`th into it."""

    folder: str
    tag: str
    step: int
    zero_stage: int
    number: int
    saved: set[int] = field(default_factory=set)
    files: dict[int, tuple[ManifestFile, ...]] = field(default_factory=dict)

    @classmethod
    def from_fact(cls, fact: Mapping[str, Any]) -> Self:
        """Read a `saved` fact."""
        names = ("folder", "tag", "step", "zero_stage", "number")
        return cls(**{name: fact[name] for name in names})


class OpenSaves:
    """All saves of an attempt that are neither committed nor given up."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._open: dict[str, Save] = {}

    def note_saved(self, rank: int, save: Save) -> None:
        """A rank's save returned; `save` says which."""
        current = self._open.get(save.folder)
        if current is None or current.number < save.number:
            current = self._open[save.folder] = save
        if current.number == save.number:
            current.saved.add(rank)

    def note_hashed(
        self, rank: int, folder: str, number: int, files: tuple[ManifestFile, ...]
    ) -> Save | None:
        """A rank described its files; return the save when it can now be committed."""
        save = self._open.get(folder)
        if save is None or save.number != number:
            return None
        save.files[rank] = files
        if len(save.files) < self._world_size:
            return None
        return self._open.pop(folder)

    def give_up(self, folder: str) -> bool:
        """Forget a save, because its folder is about to change or cannot be read."""
        return self._open.pop(folder, None) is not None

    @property
    def is_waiting(self) -> bool:
        """Whether some save is complete on all ranks and only waits for hashes."""
        return any(len(save.saved) == self._world_size for save in self._open.values())
