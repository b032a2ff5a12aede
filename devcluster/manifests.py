"""The objects and policies that every cluster starts with: rights, storage, what is audited.

Storage is a class of ready-made ReadWriteMany volumes, because ordinary claims must bind under
restricted pod security without a storage driver. Their folders have mode 0777: fsGroup does not
apply to hostPath volumes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

STORAGE_CLASS = "shared"
VOLUMES = 40
VOLUME_SIZE = "10Gi"
KUBERAY_NAMESPACE = "kuberay-system"
RBAC = "rbac.authorization.k8s.io"

READS = ["get", "list", "watch"]


def audit_policy() -> dict[str, Any]:
    """Record every request, without bodies, but for reads by the cluster's own components."""
    components = ("apiserver", "kube-scheduler", "kube-controller-manager", "kube-proxy")
    users = [f"system:{name}" for name in components]
    users += [f"devcluster:{name}" for name in ("coredns", "kuberay", "kwok", "kueue")]
    groups = ["system:nodes", "system:serviceaccounts:kube-system"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": users, "verbs": READS},
            {"level": "None", "userGroups": groups, "verbs": READS},
            {"level": "Metadata"},
        ],
    }


def access() -> list[dict[str, Any]]:
    """What our own clients may do: the API server on kubelets, CoreDNS, KubeRay."""
    watched = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]},
    ]
    return [
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "devcluster:coredns"},
            "rules": [{**rule, "verbs": ["list", "watch"]} for rule in watched],
        },
        _binding("devcluster:coredns", "devcluster:coredns", "devcluster:coredns"),
        full_rights("devcluster:kuberay"),
        _binding(
            "devcluster:kubelets", "system:kubelet-api-admin", "kube-apiserver-kubelet-client"
        ),
        namespace(KUBERAY_NAMESPACE),
    ]


def namespace(name: str) -> dict[str, Any]:
    """A namespace without rules."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def full_rights(user: str) -> dict[str, Any]:
    """The rights of an administrator, for a controller of ours."""
    return _binding(user, "cluster-admin", user)


def _binding(name: str, role: str, user: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    }


def storage(folder: Path) -> list[dict[str, Any]]:
    """The storage class and its volumes, each a folder below `folder`."""
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "reclaimPolicy": "Retain",
            "volumeBindingMode": "Immediate",
        },
        *(volume(folder / name) for name in volume_names()),
    ]


def volume_names() -> Sequence[str]:
    """The names of the volumes, and of their folders."""
    return [f"{STORAGE_CLASS}-{number:02}" for number in range(VOLUMES)]


def volume(folder: Path) -> dict[str, Any]:
    """A volume that pods on every node see as the same folder."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": folder.name},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": VOLUME_SIZE},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
        },
    }
