"""The one way in: whatever the source, its members are checked and written to one plain tar file.

Nothing is unpacked that was not admitted here.  Admitted are files, folders and symbolic links
that stay inside; no name leads out or through a link, and all of it together has a limit.  The
standard library's own filter is used as well where Python has it (3.11.4), but not relied on.
"""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from deepspeed_trainer.source.faults import CodeRefused

MAX_BYTES: Final = 1024**3
"""Of all files together, unpacked.  Code is small; data belong on the storage."""
MAX_MEMBERS: Final = 100_000
MAX_NAME_CHARS: Final = 1024
_MAX_LINK_BYTES: Final = 4096
_TIME_S: Final = 946_684_800
"""Of all members: the year 2000, because zip files, which Ray packs code into, know none before
1980."""
_ZIP_MAGIC: Final = b"PK"
_GZIP_MAGIC: Final = b"\x1f\x8b"

_DAMAGED: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    ValueError,
)

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A file, folder or link of a source."""

    name: str
    kind: Literal["file", "folder", "link"]
    size: int = 0
    executable: bool = False
    target: str = ""
    """Of a link."""
    data: IO[bytes] | None = None
    """Of a file."""


class Gate:
    """Admits members one after the other; `field` begins its messages."""

    def __init__(self, field: str, *, max_bytes: int = MAX_BYTES) -> None:
        self._field = field
        self._left_bytes = self._max_bytes = max_bytes
        self._left_members = MAX_MEMBERS
        self._folders: set[Parts] = set()
        self._files: set[Parts] = set()
        self._links: dict[Parts, str] = {}

    def admit(self, member: Member) -> Parts:
        """Return the parts of a member's name; none for the root folder.

        Raises:
            CodeRefused: it leads out, passes through a link, is there twice, or is too much.
        """
        parts = self._read_name(member.name)
        self._count(member)
        if not parts:
            return parts
        for above in (parts[:depth] for depth in range(1, len(parts))):
            if above in self._links or above in self._files:
                raise self._refuse(f"{member.name!r} passes through what is no folder")
            self._folders.add(above)
        if member.kind == "folder":
            if parts in self._links or parts in self._files:
                raise self._refuse(f"{member.name!r} is there twice")
            self._folders.add(parts)
            return parts
        if parts in self._folders or parts in self._links or parts in self._files:
            raise self._refuse(f"{member.name!r} is there twice")
        if member.kind == "link":
            self._links[parts] = member.target
        else:
            self._files.add(parts)
        return parts

    def close(self) -> None:
        """Look at the links, now that all are known.

        Raises:
            CodeRefused: one leads out, or through another one, whose `..` would mean elsewhere.
        """
        for parts, target in self._links.items():
            name = "/".join(parts)
            if target.startswith("/") or not target:
                raise self._refuse(f"link {name!r} is absolute")
            at = list(parts[:-1])
            for part in PurePosixPath(target).parts:
                if tuple(at) in self._links:
                    raise self._refuse(f"link {name!r} passes through another link")
                if part != "..":
                    at.append(part)
                elif at:
                    at.pop()
                else:
                    raise self._refuse(f"link {name!r} leads out of the folder")

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been admitted."""
        return not (self._files or self._links)

    def _read_name(self, name: str) -> Parts:
        path = PurePosixPath(name)
        too_long = len(name) > MAX_NAME_CHARS or any(len(part) > 255 for part in path.parts)
        if path.is_absolute() or ".." in path.parts or "\0" in name or too_long:
            raise self._refuse(f"the name {name[:100]!r} leads out of the folder or is too long")
        return path.parts

    def _count(self, member: Member) -> None:
        self._left_bytes -= member.size
        self._left_members -= 1
        if self._left_bytes < 0 or self._left_members < 0:
            raise self._refuse(
                f"it has more than {self._max_bytes // 1024**2} MiB or {MAX_MEMBERS} files when"
                " unpacked; keep data on the storage"
            )

    def _refuse(self, why: str) -> CodeRefused:
        return CodeRefused(f"{self._field}: {why}")


def write_copy(members: Iterator[Member], target: Path, gate: Gate) -> None:
    """Write all members to a plain tar file; times and owners are the same for all.

    Raises:
        CodeRefused: a member is not admitted.
        tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error: it cannot be read.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as copy:
        for member in members:
            parts = gate.admit(member)
            if not parts:
                continue
            info = tarfile.TarInfo("/".join(parts))
            info.mtime = _TIME_S
            info.mode = 0o755 if member.executable or member.kind == "folder" else 0o644
            if member.kind == "folder":
                info.type = tarfile.DIRTYPE
            elif member.kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, member.target
            else:
                info.size = member.size
            copy.addfile(info, member.data)
    gate.close()


def unpack(copy: Path, target: Path) -> None:
    """Fill a folder with what a copy holds, in place of what is there.

    Raises:
        CodeRefused: it is no copy that `write_copy` made.
    """
    for old in target.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    with tarfile.open(copy, "r:") as source:
        gate = Gate("the run's copy of the code")
        for member in read_tar(source, "the run's copy of the code"):
            gate.admit(member)
        gate.close()
        source.extraction_filter = getattr(tarfile, "data_filter", _keep)
        source.extractall(target)  # noqa: S202  every member was admitted


def _keep(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return member


def read_tar(source: tarfile.TarFile, field: str, below: str = "") -> Iterator[Member]:
    """Yield what lies below a folder of a tar file.

    Raises:
        CodeRefused: a device, a pipe, a hard link or a file with holes.
    """
    for info in source:
        name = _below(info.name, below)
        if name is None:
            continue
        if info.isdir():
            yield Member(name, "folder")
        elif info.issym():
            yield Member(name, "link", target=info.linkname)
        elif info.isreg() and not info.issparse():
            data = source.extractfile(info)
            yield Member(name, "file", info.size, bool(info.mode & 0o111), data=data)
        else:
            raise CodeRefused(
                f"{field}: {info.name[:100]!r} is neither a file nor a folder nor a symbolic link"
            )


def read_zip(source: zipfile.ZipFile, field: str, below: str = "") -> Iterator[Member]:
    """Yield what lies below a folder of a zip file.

    Raises:
        CodeRefused: a device or the like, or it is encrypted.
    """
    for info in source.infolist():
        name = _below(info.filename, below)
        if name is None:
            continue
        mode = info.external_attr >> 16
        if info.flag_bits & 1:
            raise CodeRefused(f"{field}: it is encrypted")
        if info.is_dir():
            yield Member(name, "folder")
        elif stat.S_ISLNK(mode):
            with source.open(info) as file:
                yield Member(name, "link", target=file.read(_MAX_LINK_BYTES).decode())
        elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
            with source.open(info) as file:
                yield Member(name, "file", info.file_size, bool(mode & 0o111), data=file)
        else:
            raise CodeRefused(f"{field}: {name!r} is a device or the like")


def read_folder(folder: Path) -> Iterator[Member]:
    """Yield the files of a mounted ConfigMap; a command must be executable, so all of them are."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("..") and path.is_file():
            with path.open("rb") as data:
                yield Member(path.name, "file", path.stat().st_size, executable=True, data=data)


def copy_archive(archive: Path, target: Path, *, field: str, below: str) -> None:
    """Write the copy of a tar, tar.gz or zip file, which is told by its first bytes.

    Raises:
        CodeRefused: it is none of them, is damaged, or holds what is not admitted.
    """
    with archive.open("rb") as file:
        magic = file.read(2)
    gate = Gate(f"{field}.uri")
    try:
        if magic == _ZIP_MAGIC:
            with zipfile.ZipFile(archive) as zipped:
                write_copy(read_zip(zipped, f"{field}.uri", below), target, gate)
        else:
            packed = magic == _GZIP_MAGIC
            with _open_tar(archive, packed=packed) as source:
                write_copy(read_tar(source, f"{field}.uri", below), target, gate)
    except _DAMAGED as error:
        raise CodeRefused(
            f"{field}.uri: no tar, tar.gz or zip file that can be read: {error}"[:300]
        ) from error
    if gate.is_empty:
        if below:
            raise CodeRefused(f"{field}.path: the archive holds no file below {below!r}")
        raise CodeRefused(f"{field}.uri: the archive holds no file")


def _open_tar(archive: Path, *, packed: bool) -> tarfile.TarFile:
    return tarfile.open(archive, "r:gz") if packed else tarfile.open(archive, "r:")


def _below(name: str, folder: str) -> str | None:
    """Return a member's name below a folder, or None when it lies elsewhere."""
    name = name.removeprefix("./")
    if not folder:
        return name
    if name.rstrip("/") == folder:
        return "."
    return name.removeprefix(f"{folder}/") if name.startswith(f"{folder}/") else None
