"""What the kernel says about a process of this machine."""

from pathlib import Path


def parent_of(pid: int) -> int:
    """The process that it is a child of."""
    return int(_stat(pid)[1])


def find_below(root: int, title: str) -> int:
    """The process below another one whose command line begins so. Raises: LookupError."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_it = path.read_bytes().startswith(title.encode())
            pid = int(path.parent.name)
            above = pid
            while is_it and above not in (root, 0):
                above = parent_of(above)
            if is_it and above == root:
                return pid
        except OSError:
            continue  # it has just ended
    raise LookupError(f"no process {title!r} below {root}")


def lives(pid: int) -> bool:
    """Whether it runs: one that has ended and waits to be reaped does not."""
    try:
        return _stat(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _stat(pid: int) -> list[str]:
    # pid (name) state parent …; a name may hold anything, also brackets.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
