"""Where a run's checkpoints lie: a shared volume or a bucket, with the same few verbs.

Every write is whole or not at all, and `create` succeeds for one writer alone: that is all that the
journal's fencing needs (a hard link on a volume, a conditional put in a bucket).
"""

import errno
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from deepspeed_trainer.checkpoints.files import LINK_FROM_BYTES, copy_whole

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Bucket

CHUNK_BYTES: Final = 8 * 1024 * 1024
SMALL_BYTES: Final = 64 * 1024 * 1024
"""The largest file that is read whole: a manifest of very many files."""
_SCHEME: Final = "://"
_QUOTA_WORDS: Final = ("QuotaExceeded", "StorageFull", "507 Insufficient Storage")
"""In the answers of buckets that are full: Ceph's, MinIO's, and the status itself."""


class Store(Protocol):
    """Files by their path below a root; paths use `/` and never begin with it."""

    def read(self, path: str) -> bytes | None:
        """Return a small file whole, or None when it is not there.

        Raises:
            OSError: it cannot be read, or is larger than SMALL_BYTES.
        """

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless there is one; False when there is."""

    def write(self, path: str, data: bytes) -> None:
        """Write a small file, in place of an older one."""

    def list_names(self, folder: str) -> list[str]:
        """Return the names of the files that lie directly in a folder, sorted."""

    def list_folders(self, folder: str) -> list[str]:
        """Return the names of the folders that lie directly in a folder, sorted."""

    def list_sizes(self, folder: str) -> Mapping[str, int]:
        """Return the size in bytes of every file below a folder, by its path below it."""

    def keep(self, source: Path, path: str) -> str:
        """Bring a local file here; returns the sha256 of what was brought."""

    def fetch(self, path: str, target: Path, *, links: bool = True) -> str:
        """Make a file readable at a local path; returns the sha256 of what is read there.

        With `links` False it is a file of its own, which may be written to.
        """

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def place_of(self, path: str) -> Path | None:
        """Return where a file of a volume lies, or None when this is no volume."""


def open_store(root: str, *, patience_s: float | None = None) -> Store:
    """Return the store of a mounted folder (a path) or of a bucket (a URI).

    With `patience_s` no call to a bucket takes much longer, whatever the bucket does; without it,
    the library's own three minutes hold.
    """
    if _SCHEME in root:
        return BucketStore.from_uri(root, patience_s=patience_s)
    return VolumeStore(Path(root))


class VolumeStore:
    """A folder of a file system that all pods mount at the same path."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> bytes | None:
        """Return a file whole, or None when it is not there."""
        try:
            with (self._root / path).open("rb") as file:
                data = file.read(SMALL_BYTES + 1)
        except FileNotFoundError:
            return None
        _refuse_large(path, len(data))
        return data

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one: a link to a finished file is made or refused whole."""
        target = self._root / path
        beside = self._write_beside(target, data)
        try:
            os.link(beside, target)
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        _sync_folder(target.parent)
        return True

    def write(self, path: str, data: bytes) -> None:
        """Write a file, in place of an older one."""
        target = self._root / path
        self._write_beside(target, data).replace(target)
        _sync_folder(target.parent)

    def list_names(self, folder: str) -> list[str]:
        """Return the names of a folder's files; those that are being written are not among them."""
        try:
            entries = list(os.scandir(self._root / folder))
        except FileNotFoundError:
            return []
        return sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))

    def list_folders(self, folder: str) -> list[str]:
        """Return the names of the folders that lie directly in a folder, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self._root / folder) if entry.is_dir())
        except FileNotFoundError:
            return []

    def list_sizes(self, folder: str) -> Mapping[str, int]:
        """Return the size in bytes of every file below a folder, by its path below it."""
        root = self._root / folder
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}

    def keep(self, source: Path, path: str) -> str:
        """Hash a file that is already here, or copy it; it has reached the disk on return."""
        target = self._root / path
        if target.exists() and target.samefile(source):
            return hash_file(target, sync=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        copy_whole(source, beside)
        digest = hash_file(beside, sync=True)
        beside.replace(target)
        _sync_folder(target.parent)
        return digest

    def fetch(self, path: str, target: Path, *, links: bool = True) -> str:
        """Link a local path to the file, or copy a small one: programs write to those again."""
        source = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if links and source.stat().st_size >= LINK_FROM_BYTES:
            link_to(source, target)
        else:
            beside = target.with_name(f".{target.name}.{os.getpid()}")
            copy_whole(source, beside)
            beside.replace(target)
        return hash_file(source)

    def remove(self, path: str) -> None:
        """Remove a file, and the folders that it leaves empty."""
        target = self._root / path
        target.unlink(missing_ok=True)
        for folder in target.parents:
            if folder == self._root or not _remove_if_empty(folder):
                return

    def place_of(self, path: str) -> Path | None:
        """Return where a file lies."""
        return self._root / path

    def _write_beside(self, target: Path, data: bytes) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.uname().nodename}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        return beside


_Verb = TypeVar("_Verb", bound=Callable[..., Any])


def _telling(verb: _Verb) -> _Verb:
    """Let what a bucket's library raises come out as OSError, with the path that was meant."""

    @functools.wraps(verb)
    def told(self: "BucketStore", *args: Any, **kwargs: Any) -> Any:
        from obstore.exceptions import BaseError  # noqa: PLC0415  volumes need no such package

        try:
            return verb(self, *args, **kwargs)
        except FileNotFoundError:
            raise
        except BaseError as error:
            number = errno.ENOSPC if any(word in str(error) for word in _QUOTA_WORDS) else errno.EIO
            raise OSError(number, f"{self.uri}: {_first_line(error)}") from error

    return cast("_Verb", told)


def _first_line(error: Exception) -> str:
    first = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}: {first}"[:500]


class BucketStore:
    """A prefix of a bucket (s3, gs or abfs), through obstore.

    Credentials come from the process' environment, or from the platform's workload identity.
    """

    def __init__(self, bucket: "Bucket", uri: str = "memory://") -> None:
        import obstore  # noqa: PLC0415  volumes need no such package

        self.uri = uri
        self._bucket = bucket
        self._obstore = obstore

    @classmethod
    def from_uri(
        cls, uri: str, given: Mapping[str, str] | None = None, *, patience_s: float | None = None
    ) -> "BucketStore":
        """Return the store of a URI like s3://bucket/folder; nothing is asked of the bucket yet.

        `given` are variables that count more than those of the environment; `patience_s` is as in
        `open_store`.

        Raises:
            OSError: a setting is not known, or makes no sense.
        """
        from obstore.exceptions import (  # noqa: PLC0415
            BaseError,
            UnknownConfigurationKeyError,
        )
        from obstore.store import from_url  # noqa: PLC0415

        settings = {name.lower(): value for name, value in (given or {}).items()}
        endpoint = settings.get("aws_endpoint_url", os.environ.get("AWS_ENDPOINT_URL", ""))
        options: ClientConfig = {"allow_http": True} if endpoint.startswith("http:") else {}
        retry: RetryConfig | None = None
        if patience_s is not None:
            limit = timedelta(seconds=patience_s)
            options |= {"timeout": limit, "connect_timeout": limit}
            retry = {"max_retries": 3, "retry_timeout": limit}
        config = cast("Any", settings)
        try:
            bucket = from_url(uri, config=config, client_options=options, retry_config=retry)
        except UnknownConfigurationKeyError as error:
            raise OSError(errno.EINVAL, f"{uri}: {_first_line(error)}") from error
        except BaseError:
            # The library repeats what it could not read, which may be a part of a key.
            why = f"{uri}: a setting of this kind of bucket makes no sense"
            raise OSError(errno.EINVAL, why) from None
        return cls(bucket, uri)

    @_telling
    def read(self, path: str) -> bytes | None:
        """Return an object whole, or None when it is not there."""
        try:
            found = self._obstore.get(self._bucket, path)
        except FileNotFoundError:
            return None
        _refuse_large(path, found.meta["size"])
        return bytes(found.bytes())

    @_telling
    def create(self, path: str, data: bytes) -> bool:
        """Put an object on condition that there is none (If-None-Match)."""
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415

        try:
            self._obstore.put(self._bucket, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    @_telling
    def write(self, path: str, data: bytes) -> None:
        """Put an object, in place of an older one."""
        self._obstore.put(self._bucket, path, data)

    @_telling
    def list_names(self, folder: str) -> list[str]:
        """Return the names of the objects directly below a prefix."""
        found = self._obstore.list_with_delimiter(self._bucket, folder.rstrip("/") + "/")
        return sorted(str(item["path"]).rsplit("/", 1)[-1] for item in found["objects"])

    @_telling
    def list_folders(self, folder: str) -> list[str]:
        """Return the prefixes directly below a prefix."""
        found = self._obstore.list_with_delimiter(self._bucket, folder.rstrip("/") + "/")
        return sorted(
            str(prefix).rstrip("/").rsplit("/", 1)[-1] for prefix in found["common_prefixes"]
        )

    @_telling
    def list_sizes(self, folder: str) -> Mapping[str, int]:
        """Return the size of every object below a prefix; a thousand an answer."""
        prefix = folder.rstrip("/") + "/"
        pages = self._obstore.list(self._bucket, prefix, chunk_size=1000)
        return {
            str(item["path"]).removeprefix(prefix): int(item["size"])
            for page in pages
            for item in page
        }

    @_telling
    def keep(self, source: Path, path: str) -> str:
        """Upload a file, in parts sent side by side when it is large; hashed on its way."""
        digest = hashlib.sha256()

        def read() -> Iterator[bytes]:
            with source.open("rb") as file:
                while data := file.read(CHUNK_BYTES):
                    digest.update(data)
                    yield data

        is_small = source.stat().st_size <= CHUNK_BYTES
        body = b"".join(read()) if is_small else read()
        self._obstore.put(self._bucket, path, body, chunk_size=CHUNK_BYTES)
        return digest.hexdigest()

    @_telling
    def fetch(self, path: str, target: Path, *, links: bool = True) -> str:  # noqa: ARG002
        """Download an object; the local file appears when it is whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        digest = hashlib.sha256()
        with beside.open("wb") as file:
            for chunk in self._obstore.get(self._bucket, path).stream(min_chunk_size=CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        beside.replace(target)
        return digest.hexdigest()

    @_telling
    def remove(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self._obstore.delete(self._bucket, path)
        except FileNotFoundError:
            return

    def place_of(self, path: str) -> Path | None:  # noqa: ARG002  a bucket has no places
        """Return None: nothing here lies on a volume."""
        return None


def link_to(source: Path, target: Path) -> None:
    """Make a symbolic link, in place of what is there; several processes may do so at once."""
    beside = target.with_name(f".{target.name}.link-{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(source)
    beside.replace(target)


def hash_file(path: Path, *, sync: bool = False) -> str:
    """Return the sha256 of a file in hex; with `sync` its bytes have reached the disk first."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_large(path: str, size_bytes: int) -> None:
    if size_bytes > SMALL_BYTES:
        raise OSError(errno.EFBIG, f"{path} has more than {SMALL_BYTES} bytes")


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False  # something else lies in it
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal survive the loss of the machine."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
