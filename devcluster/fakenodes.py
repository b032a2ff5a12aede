"""Fake nodes: kwok plays their kubelets, so thousands of pods cost no more than their objects.

A pod bound to a fake node is Running and Ready with an address at once, and gone at once when it
is deleted; a Job's pod succeeds. Pods get there only if they tolerate TAINT; to be sure of it they
also select LABEL, which has the same key and value. Left out: logs, exec, failures of pods.
"""

import json
from pathlib import Path
from typing import Any

from devcluster import build, manifests, network, processes, versions
from devcluster.build import CORES, GoProgram
from devcluster.controlplane import READY_S, Command, ControlPlane, http_probe
from devcluster.node import heartbeats
from devcluster.paths import is_root
from devcluster.steps import Shell, Step

COMPONENT = "kwok"
KEY, VALUE = "kwok.x-k8s.io/node", "fake"
LABEL = {KEY: VALUE}
TAINT = {"key": KEY, "value": VALUE, "effect": "NoSchedule"}
KWOK = GoProgram(
    "kwok", "sigs.k8s.io/kwok/cmd/kwok",
    f"-s -w -X sigs.k8s.io/kwok/pkg/version.Version={versions.KWOK}",
)  # fmt: skip
STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
# A machine for training; 110 pods is what a kubelet takes.
CAPACITY = {"cpu": "128", "memory": "1024Gi", "pods": "110", "nvidia.com/gpu": "8"}
LEASE_S = 40
# With its own setting of 4, kwok and not the API server is what a thousand new pods wait for.
PARALLEL = 16


def build_step() -> Step:
    """The step that builds kwok."""
    return Step("kwok", build_kwok, ("go toolchain",), KWOK.folder.exists, lane=CORES)


def build_kwok(shell: Shell) -> None:
    """Build kwok, and put its own description of quick nodes and pods beside it."""
    build.build_program(shell, KWOK, gather_stages)


def gather_stages(module: Path, folder: Path) -> None:
    """Join the stages that we use, as kwok's source has them."""
    files = [
        file
        for stage in STAGES
        for file in sorted((module / "kustomize" / "stage" / stage).glob("*.yaml"))
        if file.name != "kustomization.yaml"
    ]
    (folder / "stages.yaml").write_text("\n---\n".join(file.read_text() for file in files))


def name_of(index: int) -> str:
    """The name of a fake node."""
    return f"fake{index:03}"


def fake_node(index: int) -> dict[str, Any]:
    """A node as kwok takes charge of it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name_of(index),
            "labels": {
                **LABEL,
                "kubernetes.io/hostname": name_of(index),
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": "fake",
            },
        },
        "spec": {"taints": [TAINT]},
        "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
    }


def configuration(plane: ControlPlane) -> dict[str, Any]:
    """How kwok is set: for fake nodes alone, and for thousands of pods."""
    address = f"127.0.0.1:{plane.place.port('kwok')}"
    return {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "manageNodesWithLabelSelector": f"{KEY}={VALUE}",
            "cidr": plane.place.fake_pod_network,
            "nodeIP": "127.0.0.1",
            "nodePort": plane.place.port("kwok"),
            "serverAddress": address,
            "tlsCertFile": str(plane.pki / "loopback.crt"),
            "tlsPrivateKeyFile": str(plane.pki / "loopback.key"),
            "nodeLeaseDurationSeconds": LEASE_S,
            "podPlayStageParallelism": PARALLEL,
            "nodePlayStageParallelism": PARALLEL,
            "nodeLeaseParallelism": PARALLEL,
        },
    }


def start(shell: Shell, plane: ControlPlane, count: int) -> None:
    """Start kwok, create the nodes, and wait until they are Ready."""
    api = plane.api()
    api.create(manifests.full_rights("devcluster:kwok"), check=shell.check)
    if is_root():
        network.keep_here(shell, plane.place.fake_pod_network)
    config = plane.home.folder / "kwok.yaml"
    stages = (KWOK.folder / "stages.yaml").read_text()
    config.write_text(f"{json.dumps(configuration(plane))}\n---\n{stages}")
    command: Command = [KWOK.folder / "kwok", "--v=WARN", "--config", config]
    command += ["--kubeconfig", plane.pki / "kwok.kubeconfig"]
    processes.start(plane.home, COMPONENT, command)
    probe = http_probe(f"http://127.0.0.1:{plane.place.port('kwok')}/healthz")
    processes.await_ready(plane.home, [COMPONENT], probe, shell=shell, timeout_s=READY_S)
    for index in range(count):
        api.create(fake_node(index), check=shell.check)
    wanted = {name_of(index) for index in range(count)}
    processes.await_ready(
        plane.home, [COMPONENT], lambda: wanted <= heartbeats(api).keys(),
        shell=shell, timeout_s=READY_S,
    )  # fmt: skip
