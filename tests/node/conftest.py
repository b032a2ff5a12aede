"""Two real nodes for all tests of this folder, and the operator in its pod, as the chart has it."""

import pytest

from devcluster.cluster import Cluster
from tests.support.audit import AuditLog
from tests.support.cluster import real_cluster
from tests.support.kube import Kube, kube_of
from tools.images import OPERATOR, QUICKSTART, TRAINER
from tools.install import await_operator, dev_values, install_chart


@pytest.fixture(scope="session")
def cluster():
    """API server, KubeRay and two nodes that hold our images."""
    with real_cluster([OPERATOR, TRAINER, QUICKSTART]) as found:
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
def operator(cluster: Cluster) -> None:
    """The operator, installed from its chart and ready in its pod."""
    install_chart(cluster, dev_values())
    await_operator(cluster)
