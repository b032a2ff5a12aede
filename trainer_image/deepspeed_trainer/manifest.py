"""The commit record of a checkpoint: written last, so that what has one is complete.

It names every file with size and sha256 and the rank that owns it.  Reading files and deciding
which checkpoint to take is `checkpoint`'s work; this is the schema alone, pure and stdlib only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from deepspeed_trainer.batching import Batch
from deepspeed_trainer.fields import ContractError, Fields, read_object
from deepspeed_trainer.progress import MAX_UNIX_S, refuse_version

MANIFEST_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.dsjob.json"
"""Lies at the root of a checkpoint; one without it was never committed."""
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
MAX_FILES: Final = 1_000_000
MAX_REASON_CHARS: Final = 512
NOT_LOOKED_AT: Final = "whether it can be converted was not looked at when it was saved"


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a checkpoint; `path` is below the tag's folder, `rank` wrote it."""

    path: str
    size_bytes: int
    sha256: str
    rank: int

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object; a path that leaves the checkpoint is refused."""
        path = fields.text("path", max_chars=4096, pattern=r"[^\x00]+")
        if path.startswith("/") or ".." in path.split("/"):
            raise fields.fail("path", "a relative path without ..")
        return cls(
            path=path,
            size_bytes=fields.whole("size_bytes"),
            sha256=fields.text("sha256", max_chars=64, pattern=r"[0-9a-f]{64}"),
            rank=fields.whole("rank", high=65_535),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One committed checkpoint; `time` in unix seconds, `versions` of torch, deepspeed and ray.

    `source` is where the program had saved it, and so where it looks for it again: absolute, or
    below DSJOB_CHECKPOINT_DIR.
    """

    step: int
    tag: str
    world_size: int
    zero_stage: int
    attempt: int
    time: float
    versions: Mapping[str, str]
    files: tuple[ManifestFile, ...]
    source: str = ""
    batch: Batch | None = None
    """The engine's batch when it saved; None where there was no engine."""
    unresizable: str = NOT_LOOKED_AT
    """Why it cannot be converted for another number of ranks; empty when it can."""
    universal: bool = False
    """Whether it was converted: no longer sharded by rank, any number of ranks can load it."""

    def files_of(self, rank: int) -> tuple[ManifestFile, ...]:
        """Return the files that a rank owns."""
        return tuple(file for file in self.files if file.rank == rank)

    def to_json(self) -> str:
        """Return the text of the manifest file."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        plain["version"] = MANIFEST_VERSION
        plain["versions"] = dict(self.versions)
        plain["batch"] = self.batch.to_wire() if self.batch else None
        plain["files"] = [file.to_wire() for file in self.files]
        return json.dumps(plain, indent=1, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a manifest.

        Raises:
            ContractError: naming the field that is missing or out of bounds.
        """
        fields = read_object(text, max_bytes=MAX_MANIFEST_BYTES, what="manifest")
        refuse_version(fields, MANIFEST_VERSION, "manifest")
        versions = fields.mapping("versions")
        if not all(isinstance(value, str) for value in versions.values()):
            raise ContractError("manifest.versions must map names to texts")
        sections = fields.sections("files", max_items=MAX_FILES)
        batch = fields.optional_section("batch")
        unresizable = fields.optional_text("unresizable", max_chars=MAX_REASON_CHARS)
        return cls(
            step=fields.whole("step"),
            tag=fields.text("tag", max_chars=255, pattern=r"[^\x00]+"),
            world_size=fields.whole("world_size", low=1, high=65_536),
            zero_stage=fields.whole("zero_stage", high=3),
            attempt=fields.whole("attempt", low=1, high=100_000),
            time=fields.number("time", low=0, high=MAX_UNIX_S),
            versions=versions,
            source=fields.text("source", max_chars=4096),
            files=tuple(ManifestFile.from_fields(section) for section in sections),
            batch=Batch.from_fields(batch) if batch else None,
            unresizable=NOT_LOOKED_AT if unresizable is None else unresizable,
            universal=fields.optional_flag("universal"),
        )
