"""A cluster without kubelets for all tests of this folder, and the operator on the host."""

from pathlib import Path

import pytest

from devcluster.cluster import Cluster
from tests.support.audit import AuditLog
from tests.support.cluster import bare_cluster
from tests.support.installed import operator_on_host
from tests.support.kube import Kube, kube_of
from tools.install import install_chart

VALUES = {"progressIntervalSeconds": 1, "trainerImage": "localhost/deepspeed-trainer:dev"}


@pytest.fixture(scope="session")
def cluster():
    """API server, controllers and KubeRay."""
    with bare_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Kube:
    """kubectl as the administrator."""
    return kube_of(cluster)


@pytest.fixture(scope="session")
def audit(cluster: Cluster) -> AuditLog:
    """Who asked what of the API server."""
    return AuditLog(cluster.audit_log)


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest):
    """A namespace of the test's own, under restricted pod security."""
    with kube.namespace(request.node.name) as name:
        yield name


@pytest.fixture(scope="session")
def chart(cluster: Cluster) -> None:
    """The chart, installed: resources, account, rights."""
    install_chart(cluster, VALUES)


@pytest.fixture
def operator(cluster: Cluster, chart: None, tmp_path: Path):
    """The operator with the chart's account, rights and settings, ready."""
    with operator_on_host(cluster, tmp_path) as running:
        yield running
