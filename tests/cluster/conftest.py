"""A cluster without kubelets for all tests of this folder, and the operator on the host."""

from pathlib import Path

import pytest

from devcluster.cluster import Cluster
from tests.support.cluster import bare_cluster
from tests.support.fixtures import audit, kube, namespace
from tests.support.installed import operator_on_host
from tools.install import install_chart

__all__ = ["audit", "kube", "namespace"]

VALUES = {"progressIntervalSeconds": 1, "trainerImage": "localhost/deepspeed-trainer:dev"}


@pytest.fixture(scope="package")
def cluster():
    """API server, controllers and KubeRay."""
    with bare_cluster() as found:
        yield found


@pytest.fixture(scope="package")
def chart(cluster: Cluster) -> None:
    """The chart, installed: resources, account, rights."""
    install_chart(cluster, VALUES)


@pytest.fixture
def operator(cluster: Cluster, chart: None, tmp_path: Path):
    """The operator with the chart's account, rights and settings, ready."""
    with operator_on_host(cluster, tmp_path) as running:
        yield running
