"""A pod that is told to go: its hook tells those who train in it, and waits until they have left.

`python -m deepspeed_trainer.leaving` is the preStop hook of a job's pods.  The kubelet runs it
before it signals anything, within the pod's grace, so Ray and the ranks still work meanwhile.  What
passes between them lies in a folder of the pod.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Final

from deepspeed_trainer.contract import LEAVE_DIR_ENV, LEAVE_GRACE_ENV

_TOLD: Final = "told"
_TENANTS: Final = "tenants"
_LOOK_EVERY_S: Final = 0.2
_ASKING: Final = "asking"
SILENT_S: Final = 10.0
"""Who has waited so long for its head has nothing to finish any more."""


def find_folder() -> Path | None:
    """Return the pod's folder."""
    path = os.environ.get(LEAVE_DIR_ENV)
    return Path(path) if path else None


def read_grace_s(folder: Path | None) -> float | None:
    """Return the grace, from when on the pod was told to go; None when it was not."""
    try:
        return float((folder / _TOLD).read_text()) if folder is not None else None
    except FileNotFoundError:
        return None


@contextmanager
def tenancy(folder: Path | None) -> Iterator[None]:
    """Hold the pod while this process has something to finish, at most for the pod's grace."""
    enter(folder)
    try:
        yield
    finally:
        leave(folder)


def enter(folder: Path | None) -> None:
    """Be waited for by the hook; a process that dies is not."""
    if folder is not None:
        tenants = folder / _TENANTS
        tenants.mkdir(parents=True, exist_ok=True)
        (tenants / str(os.getpid())).touch()


def leave(folder: Path | None) -> None:
    """Be waited for no more."""
    if folder is not None:
        (folder / _TENANTS / str(os.getpid())).unlink(missing_ok=True)


class HeldPod:
    """The pod of the board, which holds it from an attempt's first word to its end."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._is_held = False

    def hold(self) -> float | None:
        """Be waited for; returns the grace once the pod was told to go, None before."""
        if not self._is_held:
            enter(self._folder)
            self._is_held = True
        return read_grace_s(self._folder)

    def release(self) -> None:
        """Be waited for no more."""
        leave(self._folder)
        self._is_held = False


@contextmanager
def asking(folder: Path | None) -> Iterator[None]:
    """Wait for an answer of the head; without one the hook lets the pod go."""
    if folder is None:
        yield
        return
    note = folder / _ASKING / str(os.getpid())
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def tell(folder: Path, grace_s: float) -> None:
    """Tell all tenants that the pod goes, and wait until none is left."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{_TOLD}"
    beside.write_text(str(grace_s))
    beside.replace(folder / _TOLD)
    while _is_held(folder):
        sleep(_LOOK_EVERY_S)


def _is_held(folder: Path) -> bool:
    pids = [tenant.name for tenant in folder.glob(f"{_TENANTS}/*")]
    return any(Path("/proc", pid).exists() and not _is_silent(folder, pid) for pid in pids)


def _is_silent(folder: Path, pid: str) -> bool:
    """Whether a process has waited for its head for too long, by the clock of the folder."""
    told = folder / _TOLD
    told.touch()
    try:
        asked_at = (folder / _ASKING / pid).stat().st_mtime
    except FileNotFoundError:
        return False
    return told.stat().st_mtime - asked_at > SILENT_S


def main() -> int:
    """Run the hook; the kubelet ends it with the pod's grace."""
    folder = find_folder()
    if folder is not None:
        tell(folder, float(os.environ[LEAVE_GRACE_ENV]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
