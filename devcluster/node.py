"""A node: a network namespace with its own containerd, kubelet and kube-proxy.

How each is configured and started. Whatever could be shared with another node or cluster (sockets,
logs of pods, addresses given out, mounts of network namespaces) has its own place here, so that
remains.py can remove all of it, whatever state the node is in.
"""

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import network, processes
from devcluster.api import ApiClient
from devcluster.detection import DETECTIONS, Detection
from devcluster.errors import Refused
from devcluster.groups import group_of, make_groups
from devcluster.paths import run_dir
from devcluster.processes import Home
from devcluster.slots import Place
from devcluster.steps import Shell

CNI_PROGRAMS = "/usr/lib/cni"
PAUSE_IMAGE = "localhost/devcluster/pause:1"
RESERVED_CPU = "100m"
EVICTION_MEMORY = "100Mi"
READY_S = 180.0
PROGRAMS = ("containerd", "kubelet", "kube-proxy")


@dataclass(frozen=True, slots=True)
class Node:
    """One node of one cluster; `count` is how many the cluster has."""

    cluster: str
    home: Home
    place: Place
    binaries: Path
    index: int
    count: int
    detection: Detection = DETECTIONS["fast"]

    @property
    def name(self) -> str:
        """The name in the API."""
        return f"node{self.index}"

    @property
    def folder(self) -> Path:
        """Everything that the node keeps on disk."""
        return self.home.folder / self.name

    @property
    def run_folder(self) -> Path:
        """Sockets and the root file systems of containers."""
        return run_dir() / self.cluster / self.name

    @property
    def socket(self) -> Path:
        """The socket of containerd."""
        return self.run_folder / "containerd.sock"

    @property
    def images(self) -> Path:
        """The root folder of containerd."""
        return self.folder / "containerd"

    @property
    def group(self) -> str:
        """The control group of its pods."""
        return f"{group_of(self.cluster)}/{self.name}"

    @property
    def link(self) -> str:
        """The host's end of its cable."""
        return self.place.link(self.index)

    def component(self, program: str) -> str:
        """The name under which a program of this node is recorded."""
        return f"{program}-{self.name}"

    def start_runtime(self, shell: Shell) -> None:
        """Start containerd and wait for its socket; the kubelet gives up without it."""
        for folder in (self.folder / "cni", self.run_folder):
            folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "containerd.toml"
        config.write_text(self.containerd_config())
        (self.folder / "cni" / "10-devcluster.conflist").write_text(json.dumps(self.cni_config()))
        self._start("containerd", ["containerd", "-c", config])
        processes.await_ready(
            self.home, [self.component("containerd")], lambda: is_listening(self.socket),
            shell=shell, timeout_s=READY_S,
        )  # fmt: skip

    def join(self, shell: Shell, api: ApiClient) -> None:
        """Start the kubelet, wait until the node is Ready, and give it its role."""
        before = heartbeats(api).get(self.name)
        self.start_kubelet(shell)
        self.await_heartbeat(shell, api, before)
        role = {"metadata": {"labels": {"node-role.kubernetes.io/worker": ""}}}
        api.merge(f"/api/v1/nodes/{self.name}", role)

    def await_heartbeat(self, shell: Shell, api: ApiClient, before: str | None = None) -> None:
        """Wait until the node says that it is Ready, and says so anew if it was `before`."""
        processes.await_ready(
            self.home,
            [self.component("kubelet")],
            lambda: heartbeats(api).get(self.name) not in (None, before),
            shell=shell,
            timeout_s=READY_S,
        )

    def start_kubelet(self, shell: Shell) -> None:
        """Start kubelet and kube-proxy."""
        shell.check()
        make_groups(self.group)
        kubelet, proxy = self.folder / "kubelet.json", self.folder / "kube-proxy.json"
        kubelet.write_text(json.dumps(self.kubelet_config(), indent=1))
        proxy.write_text(json.dumps(self.proxy_config(), indent=1))
        self._start("kubelet", [self.binaries / "kubelet", *self.kubelet_flags(kubelet)])
        self._start("kube-proxy", [self.binaries / "kube-proxy", "--config", proxy])

    def _start(self, program: str, command: list[str | Path]) -> None:
        command = [*network.inside(self.cluster, self.index), *command]
        processes.start(self.home, self.component(program), command, owner=self.folder)

    def kubelet_flags(self, config: Path) -> list[str | Path]:
        """How the kubelet is called, beside its configuration."""
        pki = self.home.folder / "pki"
        labels = {
            "topology.kubernetes.io/region": "local",
            "topology.kubernetes.io/zone": f"local-{self.index}",
            "node.kubernetes.io/instance-type": "devcluster",
        }
        return [
            "--config", config, "--kubeconfig", pki / f"{self.name}.kubeconfig",
            "--hostname-override", self.name,
            "--node-ip", self.place.node_address(self.index),
            "--root-dir", self.folder / "kubelet",
            "--node-labels", ",".join(f"{key}={value}" for key, value in labels.items()),
        ]  # fmt: skip

    def kubelet_config(self) -> dict[str, Any]:
        """The configuration of the kubelet."""
        pki = self.home.folder / "pki"
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{self.name}-server.crt"),
            "tlsPrivateKeyFile": str(pki / f"{self.name}-server.key"),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [self.place.gateway],
            "resolvConf": str(self.home.folder / "resolv.conf"),
            "podLogsDir": str(self.folder / "pod-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            # The nodes share one machine: memory is divided among them, cores are not, for a
            # core that is wanted twice only becomes slower.
            "systemReserved": {
                "cpu": RESERVED_CPU,
                "memory": f"{reserved_memory_kib(self.count)}Ki",
            },
            "evictionHard": {
                "memory.available": EVICTION_MEMORY,
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "nodeStatusUpdateFrequency": self.detection.status_frequency,
            "shutdownGracePeriod": "0s",
        }

    def proxy_config(self) -> dict[str, Any]:
        """The configuration of kube-proxy."""
        config = self.home.folder / "pki" / "kube-proxy.kubeconfig"
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(config)},
            "hostnameOverride": self.name,
            "mode": "nftables",
            "clusterCIDR": self.place.pod_network,
            # The host's limits of connection tracking are not ours to change.
            "conntrack": {"maxPerCore": 0, "tcpBeLiberal": True},
        }

    def containerd_config(self) -> str:
        """The configuration of containerd."""
        return f"""\
version = 2
root = "{self.images}"
state = "{self.run_folder}/state"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{self.folder}/cni"
"""

    def cni_config(self) -> dict[str, Any]:
        """How pods are connected: each by a cable of its own, routed."""
        ipam = {
            "type": "host-local",
            "dataDir": str(self.folder / "addresses"),
            "ranges": [[{"subnet": self.place.pod_network_of(self.index)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {
            "cniVersion": "0.4.0",
            "name": "devcluster",
            "plugins": [
                {"type": "ptp", "ipMasq": False, "ipam": ipam},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }


def reserved_memory_kib(nodes: int) -> int:
    """What each node must leave to the others, so that all promise no more than there is."""
    total = Path("/proc/meminfo").read_text().split()[1]
    return int(total) * (nodes - 1) // nodes


def heartbeats(api: ApiClient) -> dict[str, str]:
    """The nodes that are Ready, and when each last said so; none without an answer."""
    try:
        found = api.get("/api/v1/nodes")["items"]
    except (OSError, Refused):
        return {}
    return {
        item["metadata"]["name"]: condition["lastHeartbeatTime"]
        for item in found
        for condition in item.get("status", {}).get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def is_listening(path: Path) -> bool:
    """Whether a program accepts connections on this socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
