"""Pod templates of head and workers, within the restricted pod security standard.

KubeRay adds its own labels, command, environment and init container; what is left to it and why
is said beside each part.
"""

from typing import Any

from deepspeed_operator.api import names
from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.build.code import build_code_mount, build_code_volume
from deepspeed_operator.build.sizing import PodSizes
from deepspeed_trainer import contract

UID = 1000
"""User and group of the containers: an image whose own user has only a name cannot be proven
non-root by the kubelet."""

DASHBOARD_PORT = 8265
HEAD_PORTS = {
    "gcs-server": 6379,
    "client": 10001,
    "dashboard": DASHBOARD_PORT,
    "progress": contract.PROGRESS_PORT,
}

LEAVE_DIR = "/tmp/dsjob-leave"  # noqa: S108  the pod's own
"""Where the preStop hook and the ranks of a pod meet."""
STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations that keep autoscalers from moving a pod only to pack nodes better."""

AGENT_PORT = 52365
"""Ray's dashboard agent; KubeRay starts it on this port."""


def build_head_pod(spec: DeepSpeedJobSpec, image: str, sizes: PodSizes) -> dict[str, Any]:
    """Return the head's pod template."""
    container = _build_container("ray-head", spec, image, sizes)
    container["ports"] = [
        {"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()
    ]
    # Ready means that a run can be submitted.  TCP, because the dashboard asks for the token.
    container["readinessProbe"] = _probe({"tcpSocket": {"port": DASHBOARD_PORT}})
    return {"spec": _build_pod_spec(spec, container, sizes)}


def build_worker_pod(
    spec: DeepSpeedJobSpec, image: str, sizes: PodSizes, *, cluster: str
) -> dict[str, Any]:
    """Return the workers' pod template: one pod to a node."""
    container = _build_container("ray-worker", spec, image, sizes)
    container["readinessProbe"] = _probe({"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}})
    pod = _build_pod_spec(spec, container, sizes)
    workers = {names.RAY_CLUSTER_LABEL: cluster, names.RAY_NODE_TYPE_LABEL: "worker"}
    pod["affinity"] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": workers},
                }
            ]
        }
    }
    if spec.scheduling.node_selector:
        pod["nodeSelector"] = dict(spec.scheduling.node_selector)
    return {"spec": pod}


def _build_pod_spec(
    spec: DeepSpeedJobSpec, container: dict[str, Any], sizes: PodSizes
) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(sizes.shm_bytes)}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if spec.storage is not None and spec.storage.volume_claim is not None:
        claim = {"claimName": spec.storage.volume_claim}
        volumes.append({"name": "storage", "persistentVolumeClaim": claim})
    if spec.code is not None:
        volumes.append({"name": "code", **build_code_volume(spec, spec.code)})
    return {
        # The kubelet must not revive a head in place: its run would be gone and nobody the wiser.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.preemption.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _build_tolerations(spec, sizes),
        "containers": [container],
        "volumes": volumes,
    }


def _build_tolerations(spec: DeepSpeedJobSpec, sizes: PodSizes) -> list[dict[str, Any]]:
    seconds = spec.scheduling.lost_node_toleration_seconds
    found: list[dict[str, Any]] = [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": seconds,
        }
        for trouble in ("not-ready", "unreachable")
    ]
    if sizes.device is not None:
        # Device nodes are commonly tainted with the name of their resource.
        found.append({"key": sizes.device, "operator": "Exists", "effect": "NoSchedule"})
    return found


def _build_container(
    name: str, spec: DeepSpeedJobSpec, image: str, sizes: PodSizes
) -> dict[str, Any]:
    requests = {"cpu": sizes.cpu, "memory": sizes.memory}
    limits = {"memory": sizes.memory}
    if sizes.device is not None:
        requests[sizes.device] = limits[sizes.device] = str(sizes.devices)
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if spec.storage is not None and spec.storage.volume_claim is not None:
        mounts.append({"name": "storage", "mountPath": contract.STORAGE_MOUNT})
    if spec.code is not None:
        mounts.append(build_code_mount(spec.code))
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "resources": {"requests": requests, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108  the one writable place
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            {"name": contract.LEAVE_DIR_ENV, "value": LEAVE_DIR},
            {"name": contract.LEAVE_GRACE_ENV, "value": str(spec.preemption.grace_seconds)},
            # Nothing is left to drain when a pod of ours is told to end; by default Ray would keep
            # the node's devices for another 30 seconds.
            {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "1"},
            _from_field(contract.POD_NAME_ENV, "metadata.name"),
            _from_field(contract.POD_UID_ENV, "metadata.uid"),
        ],
        # Runs before anything is signalled, so that ranks may save; it ends when they have left.
        "lifecycle": {"preStop": {"exec": {"command": list(contract.LEAVE_COMMAND)}}},
        "volumeMounts": mounts,
    }
    if spec.storage is not None and spec.storage.secret_ref is not None:
        container["envFrom"] = [{"secretRef": {"name": spec.storage.secret_ref.name}}]
    folder = spec.entrypoint.working_dir or (contract.CODE_MOUNT if spec.code else None)
    if folder is not None:
        container["workingDir"] = folder
    if spec.image_pull_policy is not None:
        container["imagePullPolicy"] = spec.image_pull_policy
    return container


def _from_field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _probe(check: dict[str, Any]) -> dict[str, Any]:
    # KubeRay's own probe first looks after ten seconds; starting is a third of a short wait.
    return {**check, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 30}
