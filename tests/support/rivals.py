"""The systems that ours is measured beside, made of the very pods that ours makes.

A rival gets the RayCluster that the operator wrote for the same job: same image, sizes, probes and
mounts. What differs is who makes it and who starts the program.
"""

import copy
from collections.abc import Mapping
from typing import Any

from deepspeed_operator.build.raycluster import RAY_VERSION
from devcluster import versions

Object = dict[str, Any]
K8S_JOB, HTTP = "K8sJobMode", "HTTPMode"
VERSIONS = {
    "kubernetes": versions.KUBERNETES,
    "kuberay": versions.KUBERAY,
    "ray": RAY_VERSION,
}
SUBMITTER_NEEDS = {"cpu": "100m", "memory": "512Mi"}


def plain_cluster(sample: Mapping[str, Any], name: str, namespace: str) -> Object:
    """A RayCluster with nobody behind it but KubeRay."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": _spec_of(sample),
    }


def ray_job(
    sample: Mapping[str, Any], name: str, namespace: str, *, mode: str, entrypoint: str
) -> Object:
    """A RayJob that makes such a cluster and runs a command on its head."""
    spec = _spec_of(sample)
    job = {
        "entrypoint": entrypoint,
        "submissionMode": mode,
        "shutdownAfterJobFinishes": True,
        "rayClusterSpec": spec,
    }
    if mode == K8S_JOB:
        job["submitterPodTemplate"] = _submitter(spec)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": job,
    }


def _spec_of(sample: Mapping[str, Any]) -> Object:
    spec: Object = copy.deepcopy(dict(sample["spec"]))
    # The operator's Secret goes with its job; KubeRay makes one of its own.
    spec["authOptions"].pop("secretName", None)
    for group in spec["workerGroupSpecs"]:
        # It names the sample's own cluster.
        group["template"]["spec"].pop("affinity", None)
    for template in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        template["template"].pop("metadata", None)
    return spec


def _submitter(spec: Mapping[str, Any]) -> Object:
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    container = {
        "name": "ray-job-submitter",
        "image": head["image"],
        "resources": {"requests": SUBMITTER_NEEDS, "limits": SUBMITTER_NEEDS},
    }
    return {"spec": {"restartPolicy": "Never", "containers": [container]}}
