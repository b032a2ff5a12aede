"""What the kernel says about a process of this machine."""

from pathlib import Path


def parent_of(pid: int) -> int:
    """The process that it is a child of."""
    return int(_stat(pid)[1])


def lives(pid: int) -> bool:
    """Whether it runs: one that has ended and waits to be reaped does not."""
    try:
        return _stat(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _stat(pid: int) -> list[str]:
    # pid (name) state parent …; a name may hold anything, also brackets.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
