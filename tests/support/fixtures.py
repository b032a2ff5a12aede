"""The fixtures that every folder with a cluster has; its conftest says which cluster that is.

They live as long as their folder's tests, so that no cluster stays up beside another folder's.
"""

import pytest

from devcluster.cluster import Cluster
from tests.support.audit import AuditLog
from tests.support.kube import Kube, kube_of


@pytest.fixture(scope="package")
def kube(cluster: Cluster) -> Kube:
    """kubectl as the administrator."""
    return kube_of(cluster)


@pytest.fixture(scope="package")
def audit(cluster: Cluster) -> AuditLog:
    """Who asked what of the API server."""
    return AuditLog(cluster.audit_log)


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest):
    """A namespace of the test's own, under restricted pod security."""
    with kube.namespace(request.node.name) as name:
        yield name
