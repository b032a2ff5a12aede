"""The kinds of objects that this operator touches, and where the API server keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubernetes.utils.quantity import parse_quantity

from deepspeed_operator.api import names

Object = dict[str, Any]
"""An object as the API server sends it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    api_version: str
    kind: str
    plural: str

    @property
    def group_path(self) -> str:
        """Path of the group and version."""
        return (
            f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        )

    def path(
        self, namespace: str | None = None, name: str | None = None, sub: str | None = None
    ) -> str:
        """Path of an object, of its subresource, or of all objects of a namespace or cluster."""
        parts = [self.group_path]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, sub) if part is not None]
        return "/".join(parts)


JOBS: Final = Kind(names.API_VERSION, names.KIND, names.PLURAL)
CLUSTERS: Final = Kind(names.RAY_API_VERSION, "RayCluster", "rayclusters")
PODS: Final = Kind("v1", "Pod", "pods")
SECRETS: Final = Kind("v1", "Secret", "secrets")
CONFIG_MAPS: Final = Kind("v1", "ConfigMap", "configmaps")
CLAIMS: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NODES: Final = Kind("v1", "Node", "nodes")
EVENTS: Final = Kind("events.k8s.io/v1", "Event", "events")

_ALL: Final = (JOBS, CLUSTERS, PODS, SECRETS, CONFIG_MAPS, CLAIMS, NODES, EVENTS)
_BY_NAME: Final = {(kind.api_version, kind.kind): kind for kind in _ALL}


def kind_of(body: Mapping[str, Any]) -> Kind:
    """Return the kind of an object that this operator writes."""
    return _BY_NAME[body["apiVersion"], body["kind"]]


def read_count(quantity: str | int) -> int:
    """Return a quantity in whole units: the API server writes a thousand devices as 1k."""
    return int(parse_quantity(quantity))
