"""Where things lie: the cache of built parts, the state of clusters, and their short-lived files.

Three folders, because they live for different times: the cache outlives everything and may be
deleted at any moment while no cluster is up; the state of a cluster lasts until `down`; what is
in the run folder (sockets, root file systems of containers) does not outlive a reboot.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).parent


def is_root() -> bool:
    """Whether this process may make nodes (namespaces, mounts, control groups)."""
    return os.geteuid() == 0


def cache_dir() -> Path:
    """The folder of everything that is built once: programs, images, logs of the builds."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "devcluster"


def state_dir() -> Path:
    """The folder under which each cluster has its own."""
    if is_root():
        return Path("/var/lib/devcluster")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "devcluster"


def run_dir() -> Path:
    """The folder for sockets and mounts of the nodes; short, for socket names end at 108 bytes."""
    return Path("/run/devcluster")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; it takes the target's place if all went well.

    Works for files and folders. An interrupted writer leaves the old target, or none.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    remove(beside)
    try:
        yield beside
        if target.is_dir() and not target.is_symlink():
            remove(target)
        beside.replace(target)
    finally:
        remove(beside)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` alone; waits while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it before may have deleted the file: then others lock a new one.
            if _is_at(path, file.fileno()):
                yield
                return


def _is_at(path: Path, fd: int) -> bool:
    """Whether the open file is the one that has this path now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def digest(*parts: str | bytes | Path) -> str:
    """Twelve hex digits that change when any of the texts or files does."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]
