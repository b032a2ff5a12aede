"""A volume that really fills up: a small file system in memory, seen by every process here.

It is mounted in a namespace of its own, which a user without rights can make, and reached through
the process that holds it.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOLD = 'mount -t tmpfs -o size="$2" tmpfs "$1" && echo mounted && exec sleep infinity'


@contextmanager
def small_volume(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount an empty file system of a size; skips the test where no namespace may be made."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _HOLD, "sh"]
    holder = subprocess.Popen(
        [*words, str(folder), str(size_bytes)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("no user namespace with a mount of its own may be made here")
        yield Path(f"/proc/{holder.pid}/root{folder}")
    finally:
        holder.kill()
        holder.wait()
