"""The operator holds exactly the rights that it uses: the chart's rules against the audit log."""

from collections.abc import Iterable
from typing import Any

import yaml

from devcluster.cluster import Cluster
from tests.support.audit import AuditLog, Call
from tests.support.eventually import eventually
from tests.support.installed import USER
from tests.support.kube import Kube, condition
from tools.install import CHART, NAMESPACE, RELEASE, helm

Right = tuple[str, str, str]  # verb, group, resource

JOB = "deepspeedjobs.dsjob.dev"
NOT_SEEN_AS_SUCH = {
    # A server-side apply of what does not exist is authorized as create, too, but audited as patch.
    ("create", "ray.io", "rayclusters"),
    # Read only after a write met a newer version, which no test can bring about at will.
    ("get", "dsjob.dev", "deepspeedjobs"),
}


def granted(cluster: Cluster) -> set[Right]:
    """What the chart's roles grant to the operator."""
    text = helm(cluster, "template", RELEASE, str(CHART), "-n", NAMESPACE, values={})
    names = {f"{NAMESPACE}:{RELEASE}", f"{RELEASE}-key"}
    return {
        (verb, group, resource)
        for found in yaml.safe_load_all(text)
        if found["kind"] in ("Role", "ClusterRole") and found["metadata"]["name"] in names
        for rule in found["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def used(calls: Iterable[Call]) -> set[Right]:
    """What was asked for, once each."""
    return {(call.verb, call.group, call.kind) for call in calls}


def a_job(name: str, **spec: Any) -> dict[str, Any]:
    """A small job on CPUs."""
    common = {"nodes": 1, "gpusPerNode": 1, "accelerator": {"type": "CPU"}, "image": "nowhere/x:1"}
    return {
        "apiVersion": "dsjob.dev/v1alpha1",
        "kind": "DeepSpeedJob",
        "metadata": {"name": name},
        "spec": {**common, "entrypoint": {"script": "train.py"}, **spec},
    }


def let_pull_fail(kube: Kube, namespace: str) -> None:
    """Do as a kubelet does that is never to pull and has no such image."""
    heads = "ray.io/node-type=head"
    [pod] = eventually(lambda: kube.list("pod", namespace, heads), "KubeRay has made the head")
    container = pod["spec"]["containers"][0]
    waiting = {"reason": "ErrImageNeverPull", "message": "not here"}
    status = {
        "name": container["name"], "image": container["image"], "imageID": "",
        "ready": False, "restartCount": 0, "state": {"waiting": waiting},
    }  # fmt: skip
    body = {"status": {"containerStatuses": [status]}}
    kube.patch("pod", pod["metadata"]["name"], body, namespace, sub="status")


def test_rights_granted_are_the_rights_used(
    cluster: Cluster, operator: object, kube: Kube, audit: AuditLog, namespace: str
) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ds"}}
    kube.apply({**config, "metadata": {"name": "ds", "namespace": namespace}, "data": {"c": "{}"}})
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    runs = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "runs"}}
    kube.apply({**runs, "metadata": {"name": "runs", "namespace": namespace}, "spec": claim})
    fails = a_job(
        "fails",
        storage={"volumeClaim": "runs"},
        deepspeed={"configMap": {"name": "ds", "key": "c"}},
        failurePolicy={"maxRestarts": 0},
    )
    waits = a_job("waits", accelerator={"type": "Nvidia"})
    for job in (fails, waits):
        job["metadata"]["namespace"] = namespace
        kube.apply(job)
    let_pull_fail(kube, namespace)
    eventually(
        lambda: condition(kube.get(JOB, "fails", namespace), "Failed")["status"] == "True",
        "the job whose image cannot be pulled is Failed",
    )
    eventually(lambda: not kube.list("rayclusters", namespace), "its cluster is gone")
    eventually(
        lambda: (
            condition(kube.get(JOB, "waits", namespace), "Ready")["reason"] == "AcceleratorMissing"
        ),
        "the job without a device waits and says so",
    )
    assert granted(cluster) - NOT_SEEN_AS_SUCH == used(audit.calls_of(USER)) - NOT_SEEN_AS_SUCH


def test_nothing_was_denied_to_the_operator(operator: object, audit: AuditLog) -> None:
    denied = [call for call in audit.calls_of(USER) if call.status == 403]
    assert not denied
