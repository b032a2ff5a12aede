"""The clusters that tests run on: one without kubelets, one with two nodes, never the demo's.

They are removed at the end. While writing a test, `TEST_CLUSTER=NAME pytest tests/…` uses
clusters NAME and NAME-api instead, and leaves them up for the next run.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from devcluster import cluster as clusters
from devcluster.cluster import Cluster, Options


@contextmanager
def bare_cluster() -> Iterator[Cluster]:
    """API server, controllers and KubeRay; pods are made and never run. Needs no root."""
    with _cluster("-api", Options(nodes=0)) as cluster:
        yield cluster


@contextmanager
def real_cluster(images: Sequence[str]) -> Iterator[Cluster]:
    """Two nodes that run containers and hold these images. Needs root."""
    with _cluster("", Options(nodes=2), images) as cluster:
        yield cluster


@contextmanager
def fresh_cluster(name: str, options: Options, images: Sequence[str] = ()) -> Iterator[Cluster]:
    """A cluster that nobody else uses, for tests that break it; what an earlier run left goes."""
    clusters.down(name)
    try:
        yield clusters.up(name, options, images)
    finally:
        clusters.down(name)


@contextmanager
def _cluster(suffix: str, options: Options, images: Sequence[str] = ()) -> Iterator[Cluster]:
    kept = os.environ.get("TEST_CLUSTER")
    name = f"{kept or 'test'}{suffix}"
    try:
        yield clusters.up(name, options, images)
    finally:
        if not kept:
            clusters.down(name)
