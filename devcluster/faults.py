"""What can happen to a node, done on purpose: lost power, a cut cable, a slow processor or line.

What is wrong with a node is not remembered but read from the machine (has it a network, is its
cable plugged in, what may its control group use), so it is right after a crash in the middle of a
verb, and `down` need not know. All verbs may be called again, and in any order.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from devcluster import groups, network, processes, remains
from devcluster.api import ApiClient
from devcluster.errors import WrongUse
from devcluster.node import PROGRAMS, Node
from devcluster.paths import written_whole
from devcluster.steps import Shell


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a node on purpose; None where nothing is limited."""

    stopped: bool = False
    partitioned: bool = False
    cores: float | None = None
    mbit_s: float | None = None

    @property
    def told(self) -> str:
        """The faults in a few words; empty when there is none."""
        slow = [f"{self.cores:g} cores"] if self.cores is not None else []
        slow += [f"{self.mbit_s:g} Mbit/s"] if self.mbit_s is not None else []
        told = {
            "stopped": self.stopped,
            "partitioned": self.partitioned,
            f"slow ({', '.join(slow)})": bool(slow),
        }
        return ", ".join(text for text, holds in told.items() if holds)


def is_stopped(node: Node) -> bool:
    """Whether the node is without power."""
    return not (network.has_network(node.cluster, node.index) and network.has_link(node.link))


def of(node: Node) -> Faults:
    """What is wrong with the node now."""
    if is_stopped(node):
        return Faults(stopped=True)
    return Faults(
        partitioned=not network.is_connected(node.link),
        cores=groups.cpu_limit(node.group),
        mbit_s=network.rate_limit(node.link),
    )


def stop(shell: Shell, node: Node) -> None:
    """Take the node's power away: its programs and pods end at once, its disk stays.

    The cable goes first, for a machine without power says no goodbye: whoever is connected to it
    hears nothing more.
    """
    network.delete_link(shell, node.link)
    remains.halt(shell, node.folder, node.group, node.run_folder)
    network.delete_namespace(shell, node.cluster, node.index)
    _quotas(node).unlink(missing_ok=True)


def start(shell: Shell, node: Node) -> None:
    """Give the node power and wait until it is Ready; other faults are gone with the old boot."""
    programs = [node.component(program) for program in PROGRAMS]
    if not is_stopped(node) and all(processes.runs(node.home, name) for name in programs):
        return
    stop(shell, node)
    network.attach_node(shell, node.cluster, node.place, node.index, node.count)
    node.start_runtime(shell)
    node.join(shell, _api(node))


def partition(shell: Shell, node: Node) -> None:
    """Plug the node's cable out. What runs on it goes on, and its pods still reach each other.

    Raises: WrongUse when the node is stopped.
    """
    _check_power(node, "partition")
    network.set_connected(shell, node.link, connected=False)


def slow(shell: Shell, node: Node, cores: float | None, mbit_s: float | None) -> None:
    """Limit what the node's pods may use together, and what passes through its cable.

    None lifts a limit. Raises: WrongUse when the node is stopped.
    """
    _check_power(node, "slow")
    _hasten(shell, node)
    if cores is not None:
        limits = groups.cpu_limits(node.group, cores)
        with written_whole(_quotas(node)) as beside:
            beside.write_text(json.dumps(groups.present(limits)))
        groups.write(limits)
    if mbit_s is not None:
        network.limit_rate(shell, node.cluster, node.index, node.link, mbit_s)


def heal(shell: Shell, node: Node) -> None:
    """Undo `partition` and `slow`, and wait until the node is Ready.

    Raises: WrongUse when the node is stopped.
    """
    _check_power(node, "heal")
    _hasten(shell, node)
    if not network.is_connected(node.link):
        network.set_connected(shell, node.link, connected=True)
        node.await_heartbeat(shell, _api(node))


def mend(shell: Shell, node: Node) -> None:
    """Undo whatever was done to the node."""
    start(shell, node)
    heal(shell, node)


def _hasten(shell: Shell, node: Node) -> None:
    network.lift_rate(shell, node.cluster, node.index, node.link)
    if _quotas(node).exists():
        groups.write(json.loads(_quotas(node).read_text()))
        _quotas(node).unlink()


def _quotas(node: Node) -> Path:
    """What the control groups had before they were slowed."""
    return node.folder / "quotas.json"


def _check_power(node: Node, verb: str) -> None:
    if is_stopped(node):
        raise WrongUse(
            f"{node.name} is stopped, and a node without power cannot be told to {verb}: "
            f"`python -m devcluster start-node --name {node.cluster} {node.name}` first."
        )


def _api(node: Node) -> ApiClient:
    return ApiClient(node.home.folder / "pki" / "admin.kubeconfig")
