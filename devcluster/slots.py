"""Give each cluster a slot, and from the slot its addresses, ports and interface names.

A slot is a small number, recorded under a lock; nothing else decides where a cluster lives, so
two clusters can never meet. Addresses: nodes 10.200.S.0/24, pods 10.(208+S).0.0/16, Services
10.(224+S).0.0/16. Ports lie below the range that kernels hand out to outgoing connections.
"""

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import WrongUse
from devcluster.paths import locked, state_dir, written_whole

SLOTS = 16
NAME = re.compile(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?")
FIRST_PORT, PORTS_PER_SLOT = 21000, 20
PORTS = (
    "kube-apiserver", "etcd", "etcd-peer", "kube-controller-manager", "kube-scheduler", "coredns",
    "kuberay", "kwok", "kueue", "kueue-webhook", "s3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cluster lives: pure arithmetic on its slot."""

    slot: int

    @property
    def bridge(self) -> str:
        """The bridge that the nodes are connected to."""
        return f"dvc{self.slot}"

    def link(self, node: int) -> str:
        """The host's end of the cable to a node."""
        return f"dvc{self.slot}n{node}"

    @property
    def gateway(self) -> str:
        """The host's address on the bridge: API server and DNS of a cluster with nodes."""
        return f"10.200.{self.slot}.1"

    @property
    def node_network(self) -> str:
        """The addresses of the nodes and, as the gateway, of the host."""
        return f"10.200.{self.slot}.0/24"

    def node_address(self, node: int) -> str:
        """The address of a node."""
        return f"10.200.{self.slot}.{10 + node}"

    @property
    def pod_network(self) -> str:
        """The addresses of all pods."""
        return f"10.{208 + self.slot}.0.0/16"

    def pod_network_of(self, node: int) -> str:
        """The addresses of the pods of one node."""
        return f"10.{208 + self.slot}.{node}.0/24"

    @property
    def fake_pod_network(self) -> str:
        """The addresses of pods on fake nodes: the half of the pods' that no real node uses."""
        return f"10.{208 + self.slot}.128.0/17"

    @property
    def service_network(self) -> str:
        """The addresses of Services."""
        return f"10.{224 + self.slot}.0.0/16"

    @property
    def api_service(self) -> str:
        """The address of the Service `kubernetes`: always the first of its network."""
        return f"10.{224 + self.slot}.0.1"

    def port(self, component: str) -> int:
        """The host port of a component that listens there."""
        return FIRST_PORT + self.slot * PORTS_PER_SLOT + PORTS.index(component)


def _registry() -> Path:
    return state_dir() / "slots.json"


def _read() -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(_registry().read_text())
    except FileNotFoundError:
        return {}
    return found


def _write(slots: dict[str, int]) -> None:
    with written_whole(_registry()) as beside:
        beside.write_text(json.dumps(slots, indent=1, sort_keys=True))


def check_name(name: str) -> None:
    """Raises: WrongUse when the name cannot be part of file, interface and group names."""
    if not NAME.fullmatch(name):
        raise WrongUse(
            f"{name!r} is no cluster name: use 1 to 20 lower case letters, digits and dashes, "
            "starting with a letter."
        )


def find(name: str) -> Place | None:
    """The place of a cluster that has one."""
    slot = _read().get(name)
    return None if slot is None else Place(slot)


def names() -> list[str]:
    """All clusters that have a place, up or half-way."""
    return sorted(_read())


def take(name: str) -> Place:
    """The place of this cluster: the one it has, or else the first free one.

    A slot counts as taken, too, when something else on this machine uses its ports or bridge
    (another user's clusters, say).
    Raises: WrongUse when the name is not one or all slots are taken.
    """
    check_name(name)
    with locked(state_dir() / "slots.lock"):
        slots = _read()
        if name in slots:
            return Place(slots[name])
        for slot in range(SLOTS):
            if slot not in slots.values() and _is_free(Place(slot)):
                _write({**slots, name: slot})
                return Place(slot)
    raise WrongUse(
        f"All {SLOTS} places are taken (by {', '.join(names())}): end a cluster with "
        "`python -m devcluster down --name NAME`."
    )


def give_back(name: str) -> None:
    """Free the cluster's slot; it had none is fine."""
    with locked(state_dir() / "slots.lock"):
        slots = _read()
        if slots.pop(name, None) is not None:
            _write(slots)


def _is_free(place: Place) -> bool:
    if Path("/sys/class/net", place.bridge).exists():
        return False
    try:
        with socket.create_server(("127.0.0.1", place.port("etcd"))):
            return True
    except OSError:
        return False
