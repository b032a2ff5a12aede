"""What the kernel tells of a process and of all below it, without stopping any of them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
MAX_TASKS_SHOWN: Final = 64
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """State of the process itself; CPU seconds and bytes of it and all its descendants."""

    state: str
    cpu_s: float
    io_bytes: int


def read_process(pid: int, *helpers: int) -> ProcessFacts | None:
    """Return what is known of a process, or None when it is gone.

    What its `helpers` use counts as its own.
    """
    stats = dict(_all_stats())
    if pid not in stats:
        return None
    parents = {child: int(fields[1]) for child, fields in stats.items()}
    roots = [root for root in (pid, *helpers) if root in stats]
    tree = set[int]().union(*(_descendants(root, parents) for root in roots))
    ticks = sum(int(stats[child][11]) + int(stats[child][12]) for child in tree)
    return ProcessFacts(stats[pid][0], ticks / _TICKS_PER_S, sum(map(_read_io, tree)))


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal."""
    for line in _lines(PROC / str(pid) / "status"):
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def describe_process(pid: int) -> str:
    """Return a few lines for people: state, waits and CPU time of each of its threads."""
    shown = ["Name", "State", "Threads", "VmRSS", "SigPnd", "ShdPnd", "SigCgt"]
    lines = [line for line in _lines(PROC / str(pid) / "status") if line.partition(":")[0] in shown]
    for task in _tasks(pid)[:MAX_TASKS_SHOWN]:
        stat = _parse_stat("".join(_lines(task / "stat")))
        wchan = "".join(_lines(task / "wchan")) or "?"
        name = "".join(_lines(task / "comm"))
        if stat is not None:
            cpu_s = (int(stat[11]) + int(stat[12])) / _TICKS_PER_S
            lines.append(f"thread {task.name} {name}: {stat[0]}, {cpu_s:.2f} s, waits at {wchan}")
    return "\n".join(lines)


def _tasks(pid: int) -> list[Path]:
    with suppress(OSError):
        return sorted((PROC / str(pid) / "task").iterdir())
    return []


def _all_stats() -> Iterator[tuple[int, list[str]]]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            stat = _parse_stat("".join(_lines(folder / "stat")))
            if stat is not None:
                yield int(folder.name), stat


def _parse_stat(text: str) -> list[str] | None:
    """Return the fields of a stat file after the name, which may hold spaces and parentheses."""
    _, closed, rest = text.rpartition(")")
    return rest.split() if closed else None


def _descendants(root: int, parents: dict[int, int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found, left = {root}, [root]
    while left:
        for child in children.get(left.pop(), []):
            if child not in found:
                found.add(child)
                left.append(child)
    return found


def _read_io(pid: int) -> int:
    values = dict(line.split(": ") for line in _lines(PROC / str(pid) / "io"))
    return int(values.get("rchar", 0)) + int(values.get("wchar", 0))


def _lines(path: Path) -> list[str]:
    """Return a file's lines; none when the process is gone or the kernel does not let us look."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
