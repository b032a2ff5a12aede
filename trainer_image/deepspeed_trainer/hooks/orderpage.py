"""The order page of a rank: the save that the head asks for, in shared memory.

The supervisor writes it, the program looks at it between optimizer steps.  Looking costs a load.
"""

import mmap
from pathlib import Path
from typing import Final, Self

_BYTES: Final = 16


class OrderPage:
    """Two steps, 0 for none: the one to save at, and the one that all ranks have agreed to."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._cells = memoryview(memory).cast("d")

    @classmethod
    def create(cls, path: Path) -> Self:
        """Return the page of a program that is about to start.

        Raises:
            OSError: the file cannot be made.
        """
        with path.open("w+b") as file:
            file.truncate(_BYTES)
            return cls(mmap.mmap(file.fileno(), _BYTES))

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Return the page that the supervisor made, or None when there is none."""
        try:
            with path.open("rb") as file:
                return cls(mmap.mmap(file.fileno(), _BYTES, prot=mmap.PROT_READ))
        except FileNotFoundError:
            return None

    @classmethod
    def anonymous(cls) -> Self:
        """Return a page for both sides in one process."""
        return cls(mmap.mmap(-1, _BYTES))

    @property
    def save_at(self) -> int:
        """The step that is named."""
        return int(self._cells[0])

    @property
    def agreed(self) -> int:
        """The step that stays."""
        return int(self._cells[1])

    def write(self, save_at: int, *, is_agreed: bool) -> None:
        """Name a step; a program must never see one agreed that is not the one named."""
        self._cells[1] = save_at if is_agreed else 0
        self._cells[0] = save_at
