"""What the controllers of a cluster cost: CPU time and memory of their processes, from /proc."""

import os
from contextlib import suppress
from pathlib import Path

from devcluster import processes
from devcluster.cluster import Cluster
from devcluster.groups import group_of

OPERATOR = b"deepspeed_operator"
TICKS = os.sysconf("SC_CLK_TCK")
KIBIBYTE = 1 << 10


def kuberay_pid(cluster: Cluster) -> int:
    """KubeRay's operator, which runs on the host. Raises: LookupError when it does not run."""
    found = processes.recorded(cluster.home, "kuberay")
    if found is None or not processes.is_alive(found):
        raise LookupError(f"KubeRay does not run in {cluster.name}")
    return found.pid


def operator_pid(cluster: Cluster) -> int:
    """Our operator in its pod. Raises: LookupError when there is not exactly one."""
    group = group_of(cluster.name).encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if OPERATOR in words and group in (folder / "cgroup").read_bytes():
                found.append(int(folder.name))
    if len(found) != 1:
        raise LookupError(f"{len(found)} operators run in {cluster.name}: {found}")
    return found[0]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, in its own code and the kernel's (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory_bytes(pid: int) -> int:
    """The most resident memory that a process has had (proc(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIBIBYTE
    raise LookupError(f"process {pid} tells no VmHWM")
