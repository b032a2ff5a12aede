"""Checkpoints on the job's storage: whose files, are they whole, which one to continue from.

A checkpoint counts once its manifest lies in it, and as long as no rejection lies beside it.
Only files are touched here; who says when is in `attempt` (commit) and `driver` (resume).
Conversion to another world size and retention are not here.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepspeed_trainer.fields import ContractError
from deepspeed_trainer.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    REJECTED_FILE,
    Manifest,
    ManifestFile,
)

_OF_RANK: Final = re.compile(r"(?:zero_pp_rank_|rng_state_)(\d+)(?:\D|$)")
_OURS: Final = frozenset({MANIFEST_FILE, REJECTED_FILE})
LATEST_FILE: Final = "latest"
"""DeepSpeed's own pointer: the tag that load_checkpoint takes when it is given none."""


class CheckpointCorrupt(RuntimeError):
    """A file of a committed checkpoint is not what was saved; the message names it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A committed checkpoint that can be continued from; `folder` is <save_dir>/<tag>."""

    folder: Path
    manifest: Manifest


def owner_of(path: str) -> int:
    """Return the rank that owns a file: the one in its name, else rank 0."""
    found = _OF_RANK.search(path.rsplit("/", 1)[-1])
    return int(found[1]) if found else 0


def describe_own_files(folder: Path, rank: int) -> tuple[ManifestFile, ...]:
    """Read and hash the files of a checkpoint that a rank owns.

    Raises:
        OSError: a file vanished or cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is gone")
    own = [path for path in _files_below(folder) if owner_of(path.name) == rank]
    return describe_files(folder, [path.relative_to(folder).as_posix() for path in own], rank)


def describe_files(folder: Path, paths: Sequence[str], rank: int) -> tuple[ManifestFile, ...]:
    """Read and hash these files of a checkpoint, which a rank wrote.

    Raises:
        OSError: a file vanished or cannot be read.
    """
    return tuple(
        ManifestFile(
            path=path,
            size_bytes=(folder / path).stat().st_size,
            sha256=hash_file(folder / path),
            rank=rank,
        )
        for path in paths
    )


def unite(folder: Path, files: Iterable[ManifestFile]) -> tuple[ManifestFile, ...]:
    """Return every file once; what several ranks wrote is read again, now that all are done.

    Raises:
        OSError: a file vanished or cannot be read.
    """
    found: dict[str, ManifestFile] = {}
    for file in files:
        before = found.setdefault(file.path, file)
        if before.sha256 != file.sha256:
            (found[file.path],) = describe_files(folder, [file.path], before.rank)
    return tuple(found.values())


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit(folder: Path, manifest: Manifest) -> None:
    """Write the manifest whole or not at all, after the files that it names."""
    beside = folder / f".{MANIFEST_FILE}.{os.getpid()}"
    with beside.open("w") as file:
        file.write(manifest.to_json())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / MANIFEST_FILE)
    _sync_folder(folder)


def uncommit(folder: Path) -> bool:
    """Remove a manifest before its files are overwritten; True when there was one."""
    try:
        (folder / MANIFEST_FILE).unlink()
    except FileNotFoundError:
        return False
    _sync_folder(folder)
    return True


def read_manifest(folder: Path) -> Manifest | None:
    """Return a checkpoint's manifest, or None when it has none that can be read."""
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            return Manifest.from_json(file.read(MAX_MANIFEST_BYTES + 1))
    except (OSError, ContractError):
        return None


def find_newest(run: Path, world_size: int) -> Candidate | None:
    """Return the newest checkpoint that a program of this run saved with its engine."""
    return _newest(run.glob("attempt-*/checkpoints/*"), world_size)


def find_reported(run: Path, world_size: int) -> Candidate | None:
    """Return the newest checkpoint that a program of this run handed to ray.train.report."""
    return _newest(run.glob("attempt-*/*/report-*"), world_size)


def _newest(folders: Iterable[Path], world_size: int) -> Candidate | None:
    """Return the committed checkpoint with the highest step, whole and not rejected."""
    found = [_usable(folder, world_size) for folder in folders if not folder.is_symlink()]
    usable = [candidate for candidate in found if candidate is not None]
    newest = sorted(usable, key=lambda c: (c.manifest.step, c.manifest.attempt, c.manifest.time))
    return newest[-1] if newest else None


def offer(candidate: Candidate, checkpoints: Path) -> None:
    """Make `load_checkpoint(checkpoints)` find a checkpoint that another attempt saved."""
    link = checkpoints / candidate.folder.name
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.symlink_to(os.path.relpath(candidate.folder, checkpoints), target_is_directory=True)
    (checkpoints / LATEST_FILE).write_text(candidate.manifest.tag)


def withdraw(checkpoints: Path) -> None:
    """Make `load_checkpoint(checkpoints)` find nothing, though something was saved there."""
    (checkpoints / LATEST_FILE).unlink(missing_ok=True)


def verify(folder: Path, manifest: Manifest, rank: int) -> tuple[ManifestFile, ...]:
    """Compare a rank's files with the manifest and return them.

    Raises:
        CheckpointCorrupt: naming the first file that differs or is missing.
    """
    own = manifest.files_of(rank)
    for file in own:
        try:
            found = hash_file(folder / file.path)
        except OSError as error:
            raise CheckpointCorrupt(f"{folder / file.path} cannot be read: {error}") from error
        if found != file.sha256:
            raise CheckpointCorrupt(
                f"{folder / file.path} has sha256 {found}, saved was {file.sha256}"
            )
    return own


def reject(folder: Path, reason: str) -> None:
    """Mark a checkpoint as damaged, so that no later attempt takes it."""
    (folder / REJECTED_FILE).write_text(json.dumps({"reason": reason}))


def is_below(path: Path, root: Path) -> bool:
    """Return whether a path lies below a folder, links followed."""
    return path.resolve().is_relative_to(root.resolve())


def _usable(folder: Path, world_size: int) -> Candidate | None:
    manifest = read_manifest(folder)
    if manifest is None or (folder / REJECTED_FILE).exists() or manifest.tag != folder.name:
        return None
    if manifest.world_size != world_size:
        return None
    is_whole = all(_has_size(folder / file.path, file.size_bytes) for file in manifest.files)
    return Candidate(folder, manifest) if is_whole else None


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.name not in _OURS
            and not path.name.startswith(f".{MANIFEST_FILE}")
        ):
            yield path


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal survive the loss of the machine."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
