"""Numbers that two processes share: one writes, any may read, and no call of the system is made."""

import mmap
import os
from pathlib import Path
from typing import ClassVar, Self


class SharedCells:
    """`COUNT` 64-bit floats in shared memory, zero at first."""

    COUNT: ClassVar[int]

    def __init__(self, memory: mmap.mmap) -> None:
        self.cells = memoryview(memory).cast("d")

    @classmethod
    def create(cls, path: Path) -> Self:
        """Return the empty cells of a process that is about to write.

        They replace those that are there: whoever still reads these is not harmed.

        Raises:
            OSError: the file cannot be made.
        """
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        with beside.open("w+b") as file:
            file.truncate(8 * cls.COUNT)
            made = cls(mmap.mmap(file.fileno(), 8 * cls.COUNT))
        beside.replace(path)
        return made

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Return the cells that another process writes, or None when there are none yet."""
        try:
            with path.open("rb") as file:
                return cls(mmap.mmap(file.fileno(), 8 * cls.COUNT, prot=mmap.PROT_READ))
        except FileNotFoundError:
            return None

    @classmethod
    def anonymous(cls) -> Self:
        """Return cells for writer and reader in one process."""
        return cls(mmap.mmap(-1, 8 * cls.COUNT))
