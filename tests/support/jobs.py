"""A DeepSpeedJob on a real API server: written as its user does, read anew at every look."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from devcluster.cluster import Cluster
from devcluster.manifests import STORAGE_CLASS
from tests.support.eventually import eventually
from tests.support.kube import Kube, condition, kube_of

Object = dict[str, Any]
CLUSTERS, PODS, SECRETS = "rayclusters", "pods", "secrets"
ROOTS = {CLUSTERS: "/apis/ray.io/v1", PODS: "/api/v1", SECRETS: "/api/v1"}


def small_job(namespace: str, name: str, **spec: Any) -> Object:
    """One rank on CPU, tried again at once."""
    small = {
        "nodes": 1,
        "gpusPerNode": 1,
        "accelerator": {"type": "CPU"},
        "image": "localhost/trainer:1",
        "entrypoint": {"script": "train.py"},
        "failurePolicy": {"backoffSeconds": 0},
    }
    return {
        "apiVersion": "dsjob.dev/v1alpha1",
        "kind": "DeepSpeedJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**small, **spec},
    }


def shared_home(name: str) -> tuple[Object, Object]:
    """A namespace, and in it a claim of the same name that all nodes of a dev cluster share."""
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": STORAGE_CLASS,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    where = {"name": name, "namespace": name}
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": where, "spec": spec},
    )


@contextmanager
def home_of_jobs(kube: Kube, stem: str) -> Iterator[str]:
    """A namespace whose jobs go before it.

    If they went with it, in any order, the operator would mend what is being torn down, and be
    refused.
    """
    with kube.namespace(stem) as name:
        yield name
        kube.run("delete", "deepspeedjobs.dsjob.dev", "--all", "-n", name)


@dataclass(frozen=True)
class LiveJob:
    """A job that was applied. What is read comes straight from the API server."""

    cluster: Cluster
    manifest: Mapping[str, Any]

    @property
    def kube(self) -> Kube:
        return kube_of(self.cluster)

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    def apply(self) -> "LiveJob":
        """Apply the manifest as its user does."""
        self.kube.run("apply", "-f", "-", stdin=json.dumps(self.manifest))
        return self

    def read(self) -> Object:
        """The job as it is now."""
        path = f"/apis/dsjob.dev/v1alpha1/namespaces/{self.namespace}/deepspeedjobs/{self.name}"
        found: Object = self.cluster.control_plane.api().get(path)
        return found

    def condition(self, kind: str) -> Object:
        """A condition as it is now. Raises: LookupError when there is none."""
        return condition(self.read(), kind)

    def await_condition(self, kind: str, *, reason: str | None = None) -> Object:
        """Wait until a condition holds, or until it has this reason; returns the job then."""

        def look() -> Object:
            job = self.read()
            found = condition(job, kind)
            holds = found["status"] == "True" if reason is None else found["reason"] == reason
            assert holds, found
            return job

        what = f"{self.name}: {kind} {'holds' if reason is None else f'is {reason}'}"
        return eventually(look, what, within_s=120)

    def await_attempt(self, number: int, state: str) -> Object:
        """Wait until an attempt is in a state; returns the attempt."""

        def look() -> Object:
            attempts: list[Object] = self.read().get("status", {}).get("attempts", [])
            found = next((each for each in attempts if each["number"] == number), None)
            assert found is not None, attempts
            assert found["state"] == state, attempts
            return found

        return eventually(look, f"{self.name}: attempt {number} is {state}", within_s=120)

    def children(self, plural: str) -> list[Object]:
        """Objects of a kind that carry this job's label."""
        where = f"{ROOTS[plural]}/namespaces/{self.namespace}/{plural}"
        selector = f"labelSelector=dsjob.dev/job-name={self.name}"
        found: list[Object] = self.cluster.control_plane.api().get(f"{where}?{selector}")["items"]
        return found
