"""A cluster on which nobody has installed KubeRay: an API server alone, for a single question."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster import cluster as clusters
from devcluster import slots
from devcluster.cluster import Cluster, Options
from devcluster.steps import run_steps

NAME = "test-plain"
NEEDED = ("certificates", "api server")


@contextmanager
def plain_cluster() -> Iterator[Cluster]:
    """The cluster; removed at the end, as well as what a broken-off run left behind."""
    clusters.down(NAME)
    cluster = Cluster(NAME, slots.take(NAME), Options(nodes=0))
    steps = [step for step in clusters.start_steps(cluster, []) if step.name in NEEDED]
    try:
        with tempfile.TemporaryDirectory() as logs:
            cluster.folder.mkdir(parents=True)
            run_steps(steps, logs=Path(logs), quiet=True)
            yield cluster
    finally:
        clusters.down(NAME)
