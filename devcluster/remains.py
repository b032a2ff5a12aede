"""Remove a cluster from the machine, whatever state it is in, and nothing that is not its own.

Its own is decided by ownership: processes that carry its mark, members of its control groups,
mounts below its folders, interfaces and namespaces with its slot or name. Everything is killed
outright: the data goes as well, so there is nothing to save.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from devcluster import groups, network, processes
from devcluster.errors import DevclusterError
from devcluster.paths import is_root, remove, run_dir, state_dir
from devcluster.slots import Place
from devcluster.steps import Shell

SHIM_SOCKETS = Path("/run/containerd/s")
LOG_LINKS = Path("/var/log/containers")


@dataclass(frozen=True, slots=True)
class Remains:
    """What of a cluster is on the machine."""

    processes: list[int]
    groups: list[Path]
    mounts: list[Path]
    namespaces: list[str]
    links: list[str]
    routes: list[str]
    folders: list[Path]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


def folders_of(cluster: str) -> list[Path]:
    """The folders that a cluster has to itself."""
    return [state_dir() / cluster, run_dir() / cluster]


def find(cluster: str, place: Place) -> Remains:
    """Look at the machine for everything of this cluster."""
    folders = folders_of(cluster)
    return Remains(
        processes=[process.pid for process in processes.owned_by(folders[0])],
        groups=groups.remaining_groups(groups.group_of(cluster)),
        mounts=mounts_below(folders),
        namespaces=network.namespaces(cluster),
        links=network.links(place),
        routes=network.routes_kept(place) if is_root() else [],
        folders=[folder for folder in folders if folder.exists()],
    )


def clear(shell: Shell, cluster: str, place: Place) -> None:
    """End and delete everything of this cluster."""
    folders = folders_of(cluster)
    halt(shell, folders[0], groups.group_of(cluster), folders[1])
    if is_root():
        network.tear_down(shell, cluster, place)
    for link in log_links(folders[0]):
        link.unlink(missing_ok=True)
    remove(folders[0])


def halt(shell: Shell, folder: Path, group: str, run_folder: Path) -> None:
    """End all that runs for a cluster or a node at once, as when the power is cut; the disk stays.

    `folder` is the owner of its programs, `group` holds its pods, `run_folder` its sockets.
    """
    while owned := list(processes.owned_by(folder)):
        processes.end(owned)
    groups.end_groups(group)
    sockets = list(shim_sockets(run_folder))
    if is_root():
        unmount(shell, [folder, run_folder])
    for path in sockets:
        path.unlink(missing_ok=True)
    remove(run_folder)


def mounts_below(folders: list[Path]) -> list[Path]:
    """Mount points in these folders, the latest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if any(point.is_relative_to(folder) for folder in folders):
            found.append(point)
    return found[::-1]


def unmount(shell: Shell, folders: list[Path]) -> None:
    """Take away all mounts in these folders.

    Raises: DevclusterError when one stays: deleting the folder would reach through it.
    """
    for _ in range(5):
        points = mounts_below(folders)
        if not points:
            return
        shell.run(["umount", "--lazy", *points])
    raise DevclusterError(f"Cannot unmount {mounts_below(folders)}: see {shell.log_path}.")


def shim_sockets(folder: Path) -> Iterator[Path]:
    """The sockets of a cluster's or node's shims: not in our folders, but their addresses are."""
    for states in ("state", "*/state"):
        for file in folder.glob(f"{states}/io.containerd.runtime.v2.task/k8s.io/*/address"):
            socket = Path(file.read_text().strip().removeprefix("unix://"))
            if socket.parent == SHIM_SOCKETS:
                yield socket


def log_links(folder: Path) -> Iterator[Path]:
    """The links that kubelets make in a folder common to all of them."""
    if not LOG_LINKS.exists():
        return
    for link in LOG_LINKS.iterdir():
        if link.is_symlink() and link.readlink().is_relative_to(folder):
            yield link
