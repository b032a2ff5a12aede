"""The chosen cluster for all tests of this folder, and the operator in its pod, from its chart.

It is two nodes of a dev cluster, unless CLUSTER says otherwise (tools/choice.py). What asks for
`cluster` asks for the dev cluster's own abilities and is skipped on others.
"""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from devcluster.cluster import Cluster
from tests.support.cluster import real_cluster
from tests.support.fixtures import audit, namespace
from tests.support.kube import Kube
from tests.support.quickstart import Run, start
from tools.choice import DEVCLUSTER, read_choice
from tools.ground import find_obstacle
from tools.install import await_operator, dev_values, install_chart
from tools.target import Target

__all__ = ["audit", "namespace"]


@pytest.fixture(scope="package", autouse=True)
def ground() -> None:
    """Nodes that run containers can be had."""
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)


@pytest.fixture(scope="package")
def own_ground(ground: None) -> None:
    """Nodes and images are made on this machine; the user did not choose others."""
    chosen = read_choice().cluster
    if chosen != DEVCLUSTER:
        pytest.skip(
            f"by choice: CLUSTER is {chosen}, and this asks for what only a dev cluster can"
        )


@pytest.fixture(scope="package")
def target(ground: None) -> Iterator[Target]:
    """API server, KubeRay and nodes that have our images."""
    with real_cluster() as found:
        yield found


@pytest.fixture(scope="package")
def cluster(own_ground: None, target: Target) -> Cluster:
    """The dev cluster itself."""
    assert target.dev is not None
    return target.dev


@pytest.fixture(scope="package")
def kube(target: Target) -> Kube:
    """kubectl as the administrator."""
    return Kube(target.environment)


@pytest.fixture
def quickstart(target: Target, kube: Kube, namespace: str) -> Callable[..., Run]:
    """Start the quickstart in a namespace of the test's own: with arguments, and other fields."""
    return partial(start, kube, namespace, target=target)


@pytest.fixture(scope="package")
def operator(target: Target) -> None:
    """The operator, installed from its chart and ready in its pod."""
    install_chart(target, dev_values(target.images))
    await_operator(target)
