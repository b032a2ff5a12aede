"""The control groups of a cluster's nodes: made before the kubelet starts, found again to end pods.

Works for version 1 (a tree per controller), version 2 (one tree) and both beside each other.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from devcluster.errors import DevclusterError

PATIENCE_S = 30.0
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


def remaining_groups(cluster: str) -> list[Path]:
    """Every group of the cluster that exists, inner ones first."""
    found: list[Path] = []
    for tree in hierarchies():
        top = tree / group_of(cluster)
        if top.exists():
            found += [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
    return found


def end_groups(cluster: str) -> None:
    """Kill every process in the cluster's groups and remove the groups.

    Raises: DevclusterError when a process cannot be killed (it hangs in the kernel).
    """
    end_at = time.monotonic() + PATIENCE_S
    while groups := remaining_groups(cluster):
        for pid in set(_members(groups)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for group in groups:
            _remove_empty(group)
        if time.monotonic() > end_at:
            raise DevclusterError(f"Processes in {groups[0]} do not end; look at them with ps.")
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
