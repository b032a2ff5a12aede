"""Where raw objects end: what the API server sends becomes the few facts that decisions read.

Pure.  Objects come from the API server, so their shape is that of their schema; what a schema
makes optional may be missing here.  An object that belongs to no job of ours gives None.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from deepspeed_operator.api import names
from deepspeed_operator.api.job import JobFacts, JobKey, Uid
from deepspeed_operator.decide.observed import ClusterFacts, Exit, PodFacts, Waiting
from deepspeed_trainer.contract import CODE_CONTAINER, CodeReport, ContractError

Raw = Mapping[str, Any]

_COMING_UP: Final = ("PodInitializing", "ContainerCreating")
"""Reasons of waiting that tell nothing but that it takes its time."""
_KILLED: Final = 137
"""Exit code of a pod that the kubelet ended without saying how its containers did."""


def read_job(raw: Raw) -> JobFacts:
    """Trim a DeepSpeedJob."""
    meta = raw["metadata"]
    return JobFacts(
        key=JobKey(meta["namespace"], meta["name"]),
        uid=Uid(meta["uid"]),
        generation=meta["generation"],
        resource_version=meta["resourceVersion"],
        deleting="deletionTimestamp" in meta,
        spec=raw.get("spec", {}),
        status=raw.get("status", {}),
    )


def read_owner(raw: Raw) -> tuple[JobKey, Uid] | None:
    """Return the key and UID of the job that a child belongs to."""
    meta = raw["metadata"]
    labels = meta.get("labels", {})
    if names.JOB_LABEL not in labels or names.JOB_UID_LABEL not in labels:
        return None
    return JobKey(meta["namespace"], labels[names.JOB_LABEL]), Uid(labels[names.JOB_UID_LABEL])


def read_cluster(raw: Raw) -> ClusterFacts:
    """Trim a RayCluster."""
    meta = raw["metadata"]
    failure = _find_condition(raw, "ReplicaFailure")
    failed = failure is not None and failure["status"] == "True"
    return ClusterFacts(
        name=meta["name"],
        uid=Uid(meta["uid"]),
        created=_read_time(meta),
        deleting="deletionTimestamp" in meta,
        failure_message=failure.get("message", "") if failure is not None and failed else None,
    )


def read_pod(raw: Raw) -> PodFacts | None:
    """Trim a pod; None when it is not a pod of a RayCluster."""
    meta, status = raw["metadata"], raw.get("status", {})
    labels = meta.get("labels", {})
    cluster, role = labels.get(names.RAY_CLUSTER_LABEL), labels.get(names.RAY_NODE_TYPE_LABEL)
    if cluster is None or role not in ("head", "worker"):
        return None
    ready = _find_condition(raw, "Ready")
    return PodFacts(
        name=meta["name"],
        uid=Uid(meta["uid"]),
        cluster=cluster,
        role=role,
        created=_read_time(meta),
        deleting="deletionTimestamp" in meta,
        phase=status.get("phase", "Pending"),
        ready=ready is not None and ready["status"] == "True",
        ip=status.get("podIP"),
        node=raw.get("spec", {}).get("nodeName"),
        waiting=_read_waiting(status),
        exit=_read_exit(status),
        unschedulable=_read_unschedulable(raw),
        code=_read_code(status),
    )


def _read_time(meta: Raw) -> datetime:
    return datetime.fromisoformat(meta["creationTimestamp"])


def _find_condition(raw: Raw, wanted: str) -> Raw | None:
    conditions: Sequence[Raw] = raw.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == wanted), None)


def _list_states(status: Raw) -> Iterable[Raw]:
    """Return the containers' states in the order in which the kubelet starts them."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind, []):
            yield container.get("state", {})


def _read_waiting(status: Raw) -> Waiting | None:
    """Return the reason that says most: a failing pull before a container that takes its turn."""
    found = [
        Waiting(state["waiting"].get("reason", ""), state["waiting"].get("message", ""))
        for state in _list_states(status)
        if "waiting" in state
    ]
    return min(found, key=lambda waiting: waiting.reason in _COMING_UP, default=None)


def _read_exit(status: Raw) -> Exit | None:
    """Return how the first container that ended badly did, else how the Ray container ended."""
    ended = [state["terminated"] for state in _list_states(status) if "terminated" in state]
    failed = next((state for state in ended if state["exitCode"] != 0), None)
    if status.get("phase") == "Failed" and "reason" in status:
        # Evicted, Preempted, NodeLost and the like: the pod's own reason is the cause.
        code = failed["exitCode"] if failed is not None else _KILLED
        return Exit(status["reason"], code, status.get("message", ""))
    containers: Sequence[Raw] = status.get("containerStatuses", [])
    main: Raw = containers[0].get("state", {}) if containers else {}
    last = failed if failed is not None else main.get("terminated")
    if last is None:
        return None
    return Exit(last.get("reason", ""), last["exitCode"], last.get("message", ""))


def _read_code(status: Raw) -> CodeReport | None:
    """Return what the fetcher said; a word that is none counts as silence, its exit code stays."""
    for container in status.get("initContainerStatuses", []):
        ended = container.get("state", {}).get("terminated")
        if container.get("name") != CODE_CONTAINER or ended is None:
            continue
        try:
            return CodeReport.from_json(ended.get("message", ""))
        except ContractError:
            return None
    return None


def _read_unschedulable(raw: Raw) -> str | None:
    scheduled = _find_condition(raw, "PodScheduled")
    if scheduled is None or scheduled["status"] != "False":
        return None
    return scheduled.get("message") or scheduled.get("reason") or "not scheduled"
