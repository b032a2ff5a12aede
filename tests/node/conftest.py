"""Two real nodes for all tests of this folder, and the operator in its pod, as the chart has it."""

import pytest

from devcluster.cluster import Cluster
from tests.support.cluster import real_cluster
from tests.support.fixtures import audit, kube, namespace
from tools.ground import find_obstacle
from tools.images import OPERATOR, QUICKSTART, TRAINER
from tools.install import await_operator, dev_values, install_chart

__all__ = ["audit", "kube", "namespace"]


@pytest.fixture(scope="package", autouse=True)
def ground() -> None:
    """Nodes that run containers can be had here."""
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)


@pytest.fixture(scope="package")
def cluster(ground: None):
    """API server, KubeRay and two nodes that hold our images."""
    with real_cluster([OPERATOR, TRAINER, QUICKSTART]) as found:
        yield found


@pytest.fixture(scope="package")
def operator(cluster: Cluster) -> None:
    """The operator, installed from its chart and ready in its pod."""
    install_chart(cluster, dev_values())
    await_operator(cluster)
