"""A bridge on the host, and for each node a network namespace with a cable to it.

Pods are reached by routes, not by a bridge: each pod hangs on its own cable in its node's
namespace, so that what passes between two pods of one node is forwarded (and seen by kube-proxy)
as well. No address translation, no route to the outside.
"""

import json
import subprocess
from pathlib import Path

from devcluster.slots import Place
from devcluster.steps import Shell

NAMESPACES = Path("/run/netns")
IFF_UP = 1
# A bucket that holds the largest packet of a virtual cable, and a short queue before it.
BUCKET = ("burst", "128kb", "latency", "100ms")
BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def namespace_of(cluster: str, node: int) -> str:
    """The name of a node's network namespace."""
    return f"devcluster-{cluster}-{node}"


def inside(cluster: str, node: int) -> list[str]:
    """The words that start a program in a node's network.

    `ip netns exec` will not do: it hides /sys/fs/cgroup, which the kubelet needs.
    """
    return ["nsenter", f"--net={NAMESPACES / namespace_of(cluster, node)}"]


def make_bridge(shell: Shell, place: Place) -> None:
    """Create the cluster's bridge, with the host's address on it."""
    shell.run(["ip", "link", "add", place.bridge, "type", "bridge"])
    shell.run(["ip", "address", "add", f"{place.gateway}/24", "dev", place.bridge])
    shell.run(["ip", "link", "set", place.bridge, "up"])
    if is_filtered():
        shell.run(["iptables", "-w", "-I", "FORWARD", *_between_nodes(place)])


def attach_node(shell: Shell, cluster: str, place: Place, node: int, nodes: int) -> None:
    """Create a node's namespace, connect it, and set the routes between all nodes' pods."""
    space, address = namespace_of(cluster, node), place.node_address(node)
    shell.run(["ip", "netns", "add", space])
    cable = ["type", "veth", "peer", "name", "eth0", "netns", space]
    shell.run(["ip", "link", "add", place.link(node), *cable])
    shell.run(["ip", "link", "set", place.link(node), "master", place.bridge, "up"])
    within = ["ip", "-n", space]
    shell.run([*within, "link", "set", "lo", "up"])
    shell.run([*within, "address", "add", f"{address}/24", "dev", "eth0"])
    shell.run([*within, "link", "set", "eth0", "up"])
    shell.run([*within, "route", "add", "default", "via", place.gateway])
    for other in set(range(nodes)) - {node}:
        route = ["route", "add", place.pod_network_of(other), "via", place.node_address(other)]
        shell.run([*within, *route])
    forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
    shell.run([*inside(cluster, node), "sh", "-c", forward])
    shell.run(["ip", "route", "replace", place.pod_network_of(node), "via", address])
    if node == 0:
        # So the host reaches Services: the first node's kube-proxy translates them.
        shell.run(["ip", "route", "replace", place.service_network, "via", address])


def namespaces(cluster: str) -> list[str]:
    """The network namespaces of this cluster that exist."""
    prefix = namespace_of(cluster, 0)[:-1]
    found = NAMESPACES.glob(f"{prefix}*")
    return sorted(path.name for path in found if path.name.removeprefix(prefix).isdigit())


def links(place: Place) -> list[str]:
    """The network interfaces of this cluster that exist on the host."""
    present = Path("/sys/class/net")
    cables = [path.name for path in present.glob(f"{place.bridge}n*")]
    return [*cables, *([place.bridge] if (present / place.bridge).exists() else [])]


def tear_down(shell: Shell, cluster: str, place: Place) -> None:
    """Remove namespaces and interfaces, and the routes. Nothing there is fine."""
    for space in namespaces(cluster):
        shell.run(["ip", "netns", "delete", space])
    for link in links(place):
        delete_link(shell, link)
    for network in routes_kept(place):
        shell.run(["ip", "route", "delete", "local", network, "dev", "lo"])
    if is_filtered():
        rule = " ".join(_between_nodes(place))
        shell.run(["sh", "-c", f"while iptables -w -D FORWARD {rule} 2>/dev/null; do :; done"])


def keep_here(shell: Shell, network: str) -> None:
    """Have this machine answer for a network that nobody has: no connection to it goes astray."""
    shell.run(["ip", "route", "replace", "local", network, "dev", "lo"])


def routes_kept(place: Place) -> list[str]:
    """The networks of this cluster that `keep_here` keeps."""
    show = ["ip", "route", "show", "table", "local", "type", "local"]
    told = subprocess.run(show, capture_output=True, text=True, check=False).stdout
    return [word for word in told.split() if word == place.fake_pod_network]


def delete_link(shell: Shell, link: str) -> None:
    """Remove an interface, and with it the far end of its cable; nothing there is fine."""
    # The far end of a cable takes this one along when its namespace ends, a moment later.
    shell.run(["sh", "-c", 'ip link delete "$0" || ! ip link show "$0"', link])


def delete_namespace(shell: Shell, cluster: str, node: int) -> None:
    """Remove a node's network, with all connections in it; nothing there is fine."""
    if has_network(cluster, node):
        shell.run(["ip", "netns", "delete", namespace_of(cluster, node)])


def has_network(cluster: str, node: int) -> bool:
    """Whether the node has its network namespace."""
    return (NAMESPACES / namespace_of(cluster, node)).exists()


def has_link(link: str) -> bool:
    """Whether the interface exists on the host."""
    return Path("/sys/class/net", link).exists()


def is_connected(link: str) -> bool:
    """Whether the cable with this end on the host is plugged in."""
    return bool(int(Path("/sys/class/net", link, "flags").read_text(), 16) & IFF_UP)


def set_connected(shell: Shell, link: str, *, connected: bool) -> None:
    """Plug the cable in or out; addresses and routes on both ends stay."""
    shell.run(["ip", "link", "set", link, "up" if connected else "down"])


def limit_rate(shell: Shell, cluster: str, node: int, link: str, mbit_s: float) -> None:
    """Let no more than this pass through a node's cable, in either direction."""
    for enter, device in ends(cluster, node, link):
        shell.run([*enter, "tc", "qdisc", "replace", "dev", device, "root", "tbf",
                   "rate", f"{round(mbit_s * 1000)}kbit", *BUCKET])  # fmt: skip


def lift_rate(shell: Shell, cluster: str, node: int, link: str) -> None:
    """Undo `limit_rate`; no limit there is fine."""
    for enter, device in ends(cluster, node, link):
        found = shell.output([*enter, "tc", "qdisc", "show", "dev", device, "root"])
        if found.startswith("qdisc tbf"):
            shell.run([*enter, "tc", "qdisc", "delete", "dev", device, "root"])


def rate_limit(link: str) -> float | None:
    """The rate in Mbit/s that may pass through a cable; None when it is not limited."""
    show = ["tc", "-json", "qdisc", "show", "dev", link, "root"]
    done = subprocess.run(show, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    bytes_s = [each["options"]["rate"] for each in found if each["kind"] == "tbf"]
    return bytes_s[0] * 8 / 1e6 if bytes_s else None


def ends(cluster: str, node: int, link: str) -> list[tuple[list[str], str]]:
    """Both ends of a node's cable: how to get there, and the interface's name."""
    return [([], link), (inside(cluster, node), "eth0")]


def is_filtered() -> bool:
    """Whether the host's packet filter also sees what passes over bridges.

    Then a policy of dropping, as Docker sets it, would cut the nodes from each other.
    """
    return BRIDGE_FILTER.exists() and BRIDGE_FILTER.read_text().strip() == "1"


def _between_nodes(place: Place) -> list[str]:
    return ["-i", place.bridge, "-o", place.bridge, "-j", "ACCEPT"]
