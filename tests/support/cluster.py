"""The clusters that tests run on: one without kubelets, one with two nodes, never the demo's.

They are removed at the end. While writing a test, `TEST_CLUSTER=NAME pytest tests/…` uses
clusters NAME and NAME-api instead, and leaves them up for the next run. Where the user chose
another cluster (tools/choice.py), that one is in the place of the nodes; an existing one is left.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from devcluster import cluster as clusters
from devcluster.cluster import Cluster, Options
from tools import cluster as chosen
from tools.target import Target


@contextmanager
def bare_cluster() -> Iterator[Cluster]:
    """API server, controllers and KubeRay; pods are made and never run. Needs no root."""
    name = f"{_kept() or 'test'}-api"
    try:
        yield clusters.up(name, Options(nodes=0))
    finally:
        if not _kept():
            clusters.down(name)


@contextmanager
def real_cluster() -> Iterator[Target]:
    """The chosen cluster: nodes that run containers and have our images."""
    name = _kept() or "test"
    try:
        yield chosen.up(name)
    finally:
        if not _kept():
            chosen.give_back(name)


@contextmanager
def fresh_cluster(name: str, options: Options, images: Sequence[str] = ()) -> Iterator[Cluster]:
    """A cluster that nobody else uses, for tests that break it; what an earlier run left goes."""
    clusters.down(name)
    try:
        yield clusters.up(name, options, images)
    finally:
        clusters.down(name)


def _kept() -> str | None:
    return os.environ.get("TEST_CLUSTER")
