"""The control groups of a cluster's nodes: made before the kubelet starts, found again to end pods.

A node's group can also be given less of the processor than its pods ask for.

Works for version 1 (a tree per controller), version 2 (one tree) and both beside each other.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from devcluster.errors import DevclusterError

PATIENCE_S = 30.0
PERIOD_US = 100_000
# What a kubelet asks for.
CONTROLLERS = {"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}
# All pods of a cluster share one group, and by default the kernel gives that group no more than
# any single process beside it. Ten times that keeps probes and heartbeats in time on a busy host.
WEIGHTS = {"cpu.shares": "10240", "cpu.weight": "1000"}


def group_of(cluster: str) -> str:
    """The name of the group above all nodes of a cluster."""
    return f"devcluster-{cluster}"


def hierarchies() -> list[Path]:
    """The mounted trees of control groups, version 1 and 2."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind in ("cgroup", "cgroup2"):
            found.append(Path(fields[4]))
    return found


def make_groups(path: str) -> None:
    """Create this group in every tree, with the controllers that a kubelet asks for."""
    for tree in hierarchies():
        (tree / path).mkdir(parents=True, exist_ok=True)
        controllers = tree / "cgroup.controllers"
        if controllers.exists():
            group = tree
            for part in Path(path).parts:
                _hand_down(group, CONTROLLERS & set(controllers.read_text().split()))
                group /= part
        _favour(tree / Path(path).parts[0])


def _favour(group: Path) -> None:
    """Give a cluster's group its weight in the trees that know one."""
    for name, weight in WEIGHTS.items():
        if (group / name).exists():
            (group / name).write_text(weight)


def _hand_down(group: Path, wanted: set[str]) -> None:
    """Give a group's children these controllers (version 2)."""
    handed = group / "cgroup.subtree_control"
    lacking = wanted - set(handed.read_text().split())
    if lacking:
        handed.write_text(" ".join(f"+{name}" for name in sorted(lacking)))


def cpu_limits(group: str, cores: float) -> dict[str, str]:
    """What has to be written where, in this order, to give a group no more than so many cores."""
    found = {}
    for tree in hierarchies():
        top = tree / group
        if (top / "cpu.max").exists():
            found[str(top / "cpu.max")] = f"{round(cores * PERIOD_US)} {PERIOD_US}"
        # Version 1 refuses a group less than one within it has: those are lowered first.
        for folder, _, _ in os.walk(top, topdown=False):
            file = Path(folder, "cpu.cfs_quota_us")
            try:
                quota = round(cores * int(Path(folder, "cpu.cfs_period_us").read_text()))
                if file.parent == top or int(file.read_text()) > quota:
                    found[str(file)] = str(quota)
            except FileNotFoundError:  # not a tree that shares out cores, or a container has ended
                continue
    return found


def present(values: Mapping[str, str]) -> dict[str, str]:
    """What these files hold now, so that writing it in this order undoes writing the values."""
    there = [file for file in values if Path(file).exists()]
    return {file: Path(file).read_text().strip() for file in reversed(there)}


def write(values: Mapping[str, str]) -> None:
    """Write these files; those whose group has ended are left out."""
    for file, text in values.items():
        if Path(file).exists():
            Path(file).write_text(text)


def cpu_limit(group: str) -> float | None:
    """How many cores the group may use; None when it has no limit."""
    for tree in hierarchies():
        if (tree / group / "cpu.max").exists():
            quota, period = (tree / group / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        if (tree / group / "cpu.cfs_quota_us").exists():
            quota = (tree / group / "cpu.cfs_quota_us").read_text()
            period = (tree / group / "cpu.cfs_period_us").read_text()
            return None if int(quota) < 0 else int(quota) / int(period)
    return None


def remaining_groups(group: str) -> list[Path]:
    """This group and all within it, in every tree; inner ones first."""
    found: list[Path] = []
    for tree in hierarchies():
        if (tree / group).exists():
            found += [Path(folder) for folder, _, _ in os.walk(tree / group, topdown=False)]
    return found


def end_groups(group: str) -> None:
    """Kill every process in this group and those within it, and remove the groups.

    Raises: DevclusterError when a process cannot be killed (it hangs in the kernel).
    """
    end_at = time.monotonic() + PATIENCE_S
    while left := remaining_groups(group):
        for pid in set(_members(left)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for folder in left:
            _remove_empty(folder)
        if time.monotonic() > end_at:
            raise DevclusterError(f"Processes in {left[0]} do not end; look at them with ps.")
        time.sleep(0.02)


def _members(groups: list[Path]) -> Iterator[int]:
    for group in groups:
        try:
            yield from (int(pid) for pid in (group / "cgroup.procs").read_text().split())
        except (FileNotFoundError, OSError):
            continue


def _remove_empty(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:  # not empty yet, or already gone: the next round looks again
        return
