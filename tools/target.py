"""What demo, install and tests need to know of a cluster, whoever made it.

A dev cluster is made here; existing.py and kind.py describe the two others in the same words.
Everything that is done to a cluster goes through `Reachable`, which a dev cluster is by itself.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from devcluster import build
from devcluster import cluster as clusters
from devcluster.cluster import Cluster
from devcluster.manifests import STORAGE_CLASS
from tools.images import OPERATOR, QUICKSTART, TRAINER

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Reachable(Protocol):
    """A cluster that kubectl and helm reach with this added to their environment."""

    @property
    def environment(self) -> Mapping[str, str]:
        """KUBECONFIG, and a PATH with both programs."""


@dataclass(frozen=True, slots=True)
class Images:
    """What nodes call our images, and when they ask a registry for them."""

    operator: str = OPERATOR
    trainer: str = TRAINER
    quickstart: str = QUICKSTART
    pull_policy: PullPolicy = "Never"


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster that is up and fit for the chart and the example.

    name: what its kind knows it by. way_in: what to type so that kubectl works on it. words: what
    follows `make demo` for it. labels: on all that the demo makes, where others have things too.
    dev: the dev cluster behind it, for tests of what no other can do: read who asked what of its
    API server, and take nodes away.
    """

    name: str
    environment: Mapping[str, str]
    way_in: str
    words: str = ""
    images: Images = field(default_factory=Images)
    storage_class: str = STORAGE_CLASS
    labels: Mapping[str, str] = field(default_factory=dict)
    dev: Cluster | None = None


def of_dev(cluster: Cluster) -> Target:
    """A dev cluster that holds our images."""
    way_in = f"export KUBECONFIG={cluster.kubeconfig}"
    return Target(cluster.name, cluster.environment, way_in, dev=cluster)


def dev_up(name: str) -> Target:
    """The dev cluster of this name with our images on its nodes, made if need be."""
    return of_dev(clusters.up(name, wanted=(OPERATOR, TRAINER, QUICKSTART)))


def client_environment(kubeconfig: str) -> dict[str, str]:
    """The environment for a cluster of somebody else: the user's own programs come first."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{build.tools()}"
    return {"KUBECONFIG": kubeconfig, "PATH": path}
