import itertools
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import manifests, versions
from devcluster.controlplane import ControlPlane
from devcluster.detection import DETECTIONS
from devcluster.node import Node, reserved_memory_kib
from devcluster.paths import SOURCE
from devcluster.processes import Home
from devcluster.slots import Place

HOME = Home(Path("/var/lib/devcluster/demo"))
BINARIES = Path("/cache/cluster-1")


def node(index: int, cluster: str = "demo", slot: int = 2) -> Node:
    return Node(cluster, HOME, Place(slot), BINARIES, index, 2)


def plane(*, has_nodes: bool) -> ControlPlane:
    return ControlPlane(HOME, Place(2), BINARIES, has_nodes)


def flags(command: list[str | Path]) -> dict[str, str]:
    return dict(str(word).partition("=")[::2] for word in command)


def test_a_bare_cluster_listens_on_loopback_alone() -> None:
    told = flags(plane(has_nodes=False).api_server_command(Path("/policy")))
    assert told["--bind-address"] == told["--advertise-address"] == "127.0.0.1"
    assert told["--endpoint-reconciler-type"] == "none"


def test_a_cluster_with_nodes_listens_on_its_own_bridge_alone() -> None:
    told = flags(plane(has_nodes=True).api_server_command(Path("/policy")))
    assert told["--bind-address"] == told["--advertise-address"] == Place(2).gateway


def test_nothing_is_allowed_by_token_file_or_always() -> None:
    told = flags(plane(has_nodes=True).api_server_command(Path("/policy")))
    assert told["--authorization-mode"] == "Node,RBAC"
    assert "--token-auth-file" not in told
    assert "NodeRestriction" in told["--enable-admission-plugins"]


def test_etcd_lets_no_one_in_without_a_certificate() -> None:
    told = flags(plane(has_nodes=True).etcd_command())
    assert "--client-cert-auth" in told
    assert told["--listen-client-urls"].startswith("https://127.0.0.1:")


@pytest.mark.parametrize("component", ["kube-controller-manager", "kube-scheduler"])
def test_controllers_listen_on_loopback_with_our_certificate(component: str) -> None:
    told = flags(plane(has_nodes=True)._controller_flags(component))
    assert told["--bind-address"] == "127.0.0.1"
    assert told["--tls-cert-file"].endswith("pki/loopback.crt")


@pytest.mark.parametrize(("detection", "grace"), [("stock", "50s"), ("fast", "20s")])
def test_the_controller_manager_waits_as_long_as_asked(detection: str, grace: str) -> None:
    command = replace(plane(has_nodes=True), detection=DETECTIONS[detection])
    told = flags(command.controller_manager_command())
    assert told["--node-monitor-grace-period"] == grace


def test_the_audit_policy_records_every_request_of_a_service_account() -> None:
    rules = manifests.audit_policy()["rules"]
    assert rules[-1] == {"level": "Metadata"}
    for rule in rules[:-1]:
        assert rule["level"] == "None"
        assert set(rule["verbs"]) == {"get", "list", "watch"}
        assert "system:serviceaccounts" not in rule.get("userGroups", [])


def test_a_kubelet_asks_everyone_for_a_certificate_or_a_token() -> None:
    config = node(0).kubelet_config()
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authorization"] == {"mode": "Webhook"}


def test_nodes_share_no_folder_socket_group_or_pod_network() -> None:
    def places(each: Node) -> set[str]:
        kubelet, cni = each.kubelet_config(), each.cni_config()
        ipam = cni["plugins"][0]["ipam"]
        words = re.findall(r'= "(/[^"]+)"', each.containerd_config().replace("/usr/lib/cni", ""))
        return {
            *words, kubelet["cgroupRoot"], kubelet["podLogsDir"], kubelet["volumePluginDir"],
            ipam["dataDir"], ipam["ranges"][0][0]["subnet"],
        }  # fmt: skip

    nodes = [node(0), node(1)]
    for one, other in itertools.combinations(nodes, 2):
        assert len(places(one)) == 10
        assert not places(one) & places(other)


def test_a_socket_name_fits_the_kernel_even_for_the_longest_cluster_name() -> None:
    assert len(str(node(8, "n" * 20).socket)) < 108


def test_nodes_together_promise_no_more_memory_than_there_is() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1])
    assert 2 * (total - reserved_memory_kib(2)) <= total + 2


def test_an_ordinary_claim_binds_without_naming_a_class() -> None:
    storage = manifests.storage(Path("/volumes"))
    notes = storage[0]["metadata"]["annotations"]
    assert notes == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert all("ReadWriteMany" in v["spec"]["accessModes"] for v in storage[1:])
    paths = [v["spec"]["hostPath"]["path"] for v in storage[1:]]
    assert len(set(paths)) == manifests.VOLUMES


def test_pinned_versions_are_those_of_the_go_modules() -> None:
    def requires(module: str, line: str) -> bool:
        text = (SOURCE / "go" / module / "go.mod").read_text()
        return re.search(rf"^\s*{re.escape(line)}\b", text, re.MULTILINE) is not None

    assert requires("cluster", f"k8s.io/kubernetes {versions.KUBERNETES}")
    assert requires("kuberay", f"github.com/ray-project/kuberay/ray-operator {versions.KUBERAY}")
    assert requires("cluster", f"helm.sh/helm/v4 {versions.HELM}")
    assert requires("kwok", f"sigs.k8s.io/kwok {versions.KWOK}")
    assert requires("kueue", f"sigs.k8s.io/kueue {versions.KUEUE}")
    assert requires("versitygw", f"github.com/versity/versitygw {versions.VERSITYGW}")


def test_the_containerd_configuration_is_toml() -> None:
    config = tomllib.loads(node(0).containerd_config())
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["netns_mounts_under_state_dir"] is True
    assert cri["restrict_oom_score_adj"] is True
