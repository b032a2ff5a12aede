"""What a rank holds on the volume, written down so that it outlives the rank's process.

Where Ray's worker is the rank, nobody is left to bring its saves when it is killed.  So it keeps
one small record: its newest closed saves, whose files lie on the volume.  When the round has ended
and the pods are still there, the board finishes what all ranks hold.  The record is not forced to
the disk: it is for the death of a process, and after that of a node such files are not trusted.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from deepspeed_trainer.fields import Fields, read_object

FOLDER: Final = "held"
"""Of the records, below the attempt's folder."""
NEWEST: Final = 2
"""A rank can be one save ahead of another, no more: ranks save in step."""
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
MAX_FILES: Final = 100_000


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of a save as it was when it was held: `path` in the checkpoint."""

    path: str
    size_bytes: int
    changed_ns: int

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        return cls(
            path=fields.text("path", max_chars=4096),
            size_bytes=fields.whole("size_bytes"),
            changed_ns=fields.whole("changed_ns", high=2**63),
        )

    def lies_in(self, folder: Path) -> bool:
        """Whether it is there still, and nothing was written to it since."""
        try:
            found = (folder / self.path).stat()
        except FileNotFoundError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size_bytes, self.changed_ns)


@dataclass(frozen=True, slots=True)
class Held:
    """One closed save of one rank; `fact` is what the board was to be told of it."""

    restart: int
    fact: Mapping[str, object]
    files: tuple[HeldFile, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        sections = fields.sections("files", max_items=MAX_FILES)
        return cls(
            restart=fields.whole("restart"),
            fact=fields.mapping("fact"),
            files=tuple(HeldFile.from_fields(section) for section in sections),
        )


def record_path(attempt: str, rank: int) -> str:
    """Return where a rank's record lies, below the storage's root; `attempt` is its folder."""
    return f"{attempt}/{FOLDER}/rank-{rank:05d}.json"


def write_record(path: Path, held: Iterable[Held]) -> None:
    """Write a rank's record, in place of the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps({"saves": [asdict(save) for save in held]}))
    beside.replace(path)


def read_record(data: bytes) -> tuple[Held, ...]:
    """Read a rank's record.

    Raises:
        ContractError: naming what is missing or out of bounds.
    """
    fields = read_object(data, max_bytes=MAX_RECORD_BYTES, what="record of held saves")
    return tuple(Held.from_fields(save) for save in fields.sections("saves", max_items=NEWEST))
