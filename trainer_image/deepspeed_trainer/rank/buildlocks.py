"""Locks of torch extensions whose build was killed: every later build would wait for them for ever.

torch (utils/file_baton.py) makes a file `lock` in an extension's build folder, holds it open while
it builds, and waits without a limit for one that is there.  A pod's /tmp outlives its ranks, so a
rank that is killed while it builds would hold up every rank after it.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER_ENV: Final = "TORCH_EXTENSIONS_DIR"
_DEPTHS: Final = ("*/lock", "*/*/lock")
"""Below a folder that was named, and below torch's own, which has one for each device."""


def sweep_locks(environ: Mapping[str, str]) -> list[Path]:
    """Remove our own locks that no process holds; returns them.

    Only below the temporary folder, which is the pod's own: elsewhere other pods may build, and
    their processes cannot be seen from here.
    """
    root = find_folder(environ).resolve()
    if not root.is_relative_to(Path(tempfile.gettempdir()).resolve()):
        return []
    found = [lock for depth in _DEPTHS for lock in root.glob(depth) if _is_ours(lock)]
    held = _open_files() if found else set()
    return [lock for lock in found if str(lock) not in held and _remove(lock)]


def find_folder(environ: Mapping[str, str]) -> Path:
    """Return where torch builds extensions."""
    if FOLDER_ENV in environ:
        return Path(environ[FOLDER_ENV])
    caches = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '/')}/.cache"
    return Path(caches) / "torch_extensions"


def _is_ours(lock: Path) -> bool:
    return lock.is_file() and lock.stat().st_uid == os.geteuid()


def _open_files() -> set[str]:
    """Return what the processes that we may look at hold open: all that run as our user."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        # Another user's process, or one that has ended, or a file that was just closed.
        with contextlib.suppress(OSError):
            for file in list((process / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(file))  # noqa: PTH115  what was deleted has no Path
    return found


def _remove(lock: Path) -> bool:
    try:
        lock.unlink()
    except OSError as error:
        sys.stderr.write(f"[trainer] {lock} was left by a killed build and stays: {error}\n")
        return False
    sys.stderr.write(f"[trainer] removed {lock}, which a killed build had left\n")
    return True
