"""The RayCluster of an attempt, and the owner reference that ties children to their job.

KubeRay reports a RayCluster that it refuses only as an Event, so everything that it would refuse
is settled here or in decide/.
"""

import json
from typing import Any

from deepspeed_operator.api import names
from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.types import DeepSpeedJobSpec, RunCode
from deepspeed_operator.build.code import add_fetcher
from deepspeed_operator.build.inject import inject_trainer
from deepspeed_operator.build.pods import STAY, build_head_pod, build_worker_pod
from deepspeed_operator.build.sizing import PodSizes, derive_head_sizes, derive_worker_sizes
from deepspeed_trainer import contract

RAY_VERSION = "2.60.0"
"""Ray of the trainer image.  KubeRay chooses probes and accepts token authentication by it."""

WORKER_GROUP = "workers"


def build_owner_reference(job: JobFacts) -> dict[str, Any]:
    """Return the reference by which the API server deletes children after their job.

    It does not block the deletion of the job: that would ask for a right on its finalizers.
    """
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.key.name,
        "uid": job.uid,
        "controller": True,
    }


def build_labels(job: JobFacts) -> dict[str, str]:
    """Return the labels of every child, by which watches find them."""
    return {
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
        names.JOB_LABEL: job.key.name,
        names.JOB_UID_LABEL: job.uid,
    }


def build_raycluster(
    job: JobFacts,
    spec: DeepSpeedJobSpec,
    cluster: str,
    image: str,
    *,
    trainer_image: str | None = None,
    injector: str = "",
    frozen: RunCode | None = None,
) -> dict[str, Any]:
    """Return the RayCluster: a head without work and one worker pod a node.

    `trainer_image` fetches the code (default `image`), which is `frozen` once an attempt had it.
    The trainer of the image `injector`, if there is one, goes into an image that the job names.

    Raises:
        InvalidJob: sizes that cannot be.
    """
    head_sizes, worker_sizes = derive_head_sizes(spec), derive_worker_sizes(spec)
    head_pod = build_head_pod(spec, image, head_sizes)
    worker_pod = build_worker_pod(spec, image, worker_sizes, cluster=cluster)
    labels = build_labels(job)
    for pod in (head_pod, worker_pod):
        pod["metadata"] = {"labels": labels, "annotations": dict(STAY)}
    fetcher_image = trainer_image or image
    add_fetcher(head_pod["spec"], job, spec, image=fetcher_image, is_head=True, frozen=frozen)
    add_fetcher(worker_pod["spec"], job, spec, image=fetcher_image, is_head=False, frozen=frozen)
    if injector and spec.image is not None:
        head_pod, worker_pod = (inject_trainer(p, spec, injector) for p in (head_pod, worker_pod))
    return {
        "apiVersion": names.RAY_API_VERSION,
        "kind": "RayCluster",
        "metadata": {
            "name": cluster,
            "namespace": job.key.namespace,
            "labels": labels,
            # A head that comes back has lost the run; what follows is decided here, not there.
            "annotations": {"ray.io/disable-provisioned-head-restart": "true"},
            "ownerReferences": [build_owner_reference(job)],
        },
        "spec": {
            "rayVersion": RAY_VERSION,
            "enableInTreeAutoscaling": False,
            "authOptions": {"mode": "token", "secretName": cluster},
            "headGroupSpec": {
                "rayStartParams": _build_start_params(head_sizes),
                "template": head_pod,
            },
            "workerGroupSpecs": [_build_workers(spec, worker_sizes, worker_pod)],
        },
    }


def _build_workers(
    spec: DeepSpeedJobSpec, sizes: PodSizes, template: dict[str, Any]
) -> dict[str, Any]:
    return {
        "groupName": WORKER_GROUP,
        "replicas": spec.nodes,
        "minReplicas": spec.nodes,
        "maxReplicas": spec.nodes,
        "rayStartParams": {
            **_build_start_params(sizes),
            "resources": _quote({contract.RANK_RESOURCE: spec.gpus_per_node}),
        },
        "template": template,
    }


def _build_start_params(sizes: PodSizes) -> dict[str, str]:
    return {
        "num-cpus": str(sizes.ray_cpus),
        "object-store-memory": str(sizes.object_store_bytes),
    }


def _quote(resources: dict[str, int]) -> str:
    # The value goes through a shell in the pod: JSON inside double quotes.
    return json.dumps(json.dumps(resources))
