"""Raw objects as the API server sends them, cut down to what somebody here reads."""

from typing import Any

from deepspeed_operator.api import names

JOB_UID = "11111111-2222-3333-4444-555555555555"


def raw_job(name: str = "demo", *, uid: str = JOB_UID, version: int = 10, **more: Any) -> Any:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": uid,
            "generation": 1,
            "resourceVersion": str(version),
        },
        "spec": {"nodes": 1, "entrypoint": {"script": "train.py"}},
        **more,
    }


def raw_child(
    kind: str, name: str, *, job_uid: str = JOB_UID, version: int = 10, uid: str | None = None
) -> Any:
    return {
        "apiVersion": names.RAY_API_VERSION if kind == "RayCluster" else "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": uid or f"uid-of-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T12:00:00Z",
            "labels": {names.JOB_LABEL: "demo", names.JOB_UID_LABEL: job_uid},
        },
    }


def raw_cluster(name: str = "demo-1", **more: Any) -> Any:
    return raw_child("RayCluster", name, **more)


def raw_pod(
    name: str = "demo-1-head",
    *,
    role: str = "head",
    status: dict[str, Any] | None = None,
    **more: Any,
) -> Any:
    pod = raw_child("Pod", name, **more)
    pod["metadata"]["labels"] |= {
        names.RAY_CLUSTER_LABEL: "demo-1",
        names.RAY_NODE_TYPE_LABEL: role,
    }
    return {**pod, "spec": {"nodeName": "node-1"}, "status": status or {"phase": "Running"}}
