"""The files of a checkpoint: whose they are, and how the program's own are held fast.

A program goes on, and may overwrite, rename or delete what it has just saved.  So each rank pins
its files before the program goes on: a large file gets a second name (a hard link, which costs no
time), a small one is copied, because small files are the ones that programs append to.  Before the
program writes to a name below its tag again, the name is taken off the pinned file.  Beside the tag
nobody knows when a program writes, so what lies there is copied in the end, large or not.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

_OF_RANK: Final = re.compile(
    r"(?:zero_pp_rank_|rng_state_|random_states_|fingerprint-rank-|sidecar-rank-)(\d+)(?:\D|$)"
    r"|^__(\d+)_\d+\.distcp$"
)
_OF_SOME_RANK: Final = re.compile(
    r"^(?!mp_rank_00_)(?:layer_\d|(?:.*[-_.])?(?:expert|rank)[-_]?\d)", re.IGNORECASE
)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
Stamp = tuple[int, int, int]
"""Inode, size and time of change of a file."""
LINK_FROM_BYTES: Final = 1024 * 1024
"""Files of at least this size are linked, smaller ones copied."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A file of a save, held fast: `path` in the checkpoint, where it came from, where it is."""

    path: str
    source: Path
    at: Path
    stamp: Stamp
    """That of the source when it was pinned."""
    is_copy: bool = False
    """Whether it is a file of its own, which no program can reach."""

    @property
    def size_bytes(self) -> int:
        """Size of the file when it was pinned."""
        return self.stamp[1]

    def is_stale(self) -> bool:
        """Whether the source has become another file since, or is gone."""
        try:
            return stamp_of(self.source) != self.stamp
        except FileNotFoundError:
            return False  # what the program deleted stays pinned

    def has_changed(self) -> bool:
        """Whether what is held is no longer what was pinned."""
        found = stamp_of(self.at)
        return found[1] != self.size_bytes if self.is_copy else found != self.stamp


def pod_folder(submission_id: str) -> Path:
    """Return where an attempt's files lie on a pod's own disk when its storage is no volume."""
    return Path(tempfile.gettempdir()) / "dsjob" / submission_id


def owner_of(path: str) -> int:
    """Return the rank that owns a file: the one in its name, else rank 0.

    The names are DeepSpeed's, Transformers', Accelerate's and torch's distributed checkpoint's.
    """
    found = _OF_RANK.search(path.rsplit("/", 1)[-1])
    return int(found[1] or found[2]) if found else 0


def is_shared(path: str) -> bool:
    """Return whether a file has no rank in its name, so that every node may want it."""
    return _OF_RANK.search(path.rsplit("/", 1)[-1]) is None


def is_anyones(path: str) -> bool:
    """Return whether a file of no known rank may have been written by any: its name has a number.

    Experts, layers of a pipeline, slices of a model, and what programs name after their ranks. The
    first slice is rank 0's.
    """
    return is_shared(path) and _OF_SOME_RANK.match(path.rsplit("/", 1)[-1]) is not None


def is_loose(path: str, tag: str) -> bool:
    """Return whether a file of a save lies beside its tag's folder and not in it."""
    return not PurePosixPath(path).is_relative_to(tag)


def files_below(folder: Path) -> Iterator[Path]:
    """Return the files below a folder in a fixed order; links that a resume left are none."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def stamp_of(path: Path) -> Stamp:
    """Return what changes when a file is replaced or written to."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def pin(source: Path, path: str, places: Sequence[Path]) -> Pin:
    """Hold a file fast in the first of the folders that takes a link, else copy it to the last.

    A small file is copied to the first folder.

    Raises:
        OSError: it is gone, or there is no room for a copy.
    """
    stamp = stamp_of(source)
    targets = [place / path for place in places]
    links = stamp[1] >= LINK_FROM_BYTES
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if links and _try_link(source, target):
            return Pin(path, source, target, stamp)
    target = targets[-1] if links else targets[0]
    copy_whole(source, target)
    return Pin(path, source, target, stamp, is_copy=True)


def detach(held: Pin) -> Pin:
    """Make a linked file one of its own, as old as it was.

    Raises:
        OSError: it has changed since it was pinned, it is gone, or there is no room for a copy.
    """
    beside = held.at.with_name(f".{held.at.name}.{os.getpid()}")
    copy_whole(held.at, beside)
    if held.has_changed():
        beside.unlink()
        raise OSError(f"{held.path} was written to before it was on the storage")
    os.utime(beside, ns=(held.stamp[2], held.stamp[2]))
    beside.replace(held.at)
    return replace(held, is_copy=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; a copy that fails leaves nothing that takes up room.

    Raises:
        OSError: it is gone, or there is no room.
    """
    try:
        shutil.copyfile(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        raise


def lacks_room(error: BaseException | None) -> bool:
    """Whether a write failed because the disk, or what one may use of it, is full.

    Torch says so in words alone.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _try_link(source: Path, target: Path) -> bool:
    """Link within one file system that knows links; what else is wrong shows when copying."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def free_names(folder: Path, rank: int, *, is_first: bool = False) -> None:
    """Take a rank's names off pinned and linked files, so that writing them harms no checkpoint.

    The first rank of a pod does so for the files of no rank, too: the disk may be the pod's own.
    """
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    for path in sorted(folder.rglob("*")):
        is_own = owner_of(path.name) == rank or (is_first and is_shared(path.name))
        if is_own and not path.is_dir() and _has_other_names(path):
            path.unlink(missing_ok=True)


def _has_other_names(path: Path) -> bool:
    try:
        return path.is_symlink() or path.stat().st_nlink > 1
    except FileNotFoundError:
        return False  # another rank has taken it off
