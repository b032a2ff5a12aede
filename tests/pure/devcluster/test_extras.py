"""What is rendered for fake nodes, Kueue and the S3 server, and that nobody gets it unasked."""

from pathlib import Path

import pytest

from devcluster import cluster as clusters
from devcluster import extras, fakenodes, kueue
from devcluster.controlplane import ControlPlane
from devcluster.options import Options
from devcluster.processes import Home
from devcluster.slots import Place

PLANE = ControlPlane(
    Home(Path("/var/lib/devcluster/demo")), Place(2), Path("/cache"), has_nodes=True
)
ALL = Options(fake_nodes=2, kueue=True, s3=True)


def test_a_cluster_that_did_not_ask_builds_and_starts_nothing_beside() -> None:
    assert extras.build_steps(Options()) == []
    assert extras.start_steps(PLANE, Options()) == []
    assert extras.components(Options()) == []


def test_what_is_asked_for_is_built_started_and_must_run() -> None:
    assert len(extras.build_steps(ALL)) == 3
    assert {"fake nodes", "kueue", "s3"} <= {step.name for step in extras.start_steps(PLANE, ALL)}
    assert extras.components(ALL) == ["kwok", "kueue", "s3"]


def test_building_all_parts_beforehand_leaves_out_what_few_ask_for() -> None:
    names = {step.name for step in clusters.all_build_steps()}
    assert not names & {step.name for step in extras.build_steps(ALL)}


def test_kwok_keeps_its_hands_off_real_nodes() -> None:
    options = fakenodes.configuration(PLANE)["options"]
    assert "manageAllNodes" not in options
    key, _, value = options["manageNodesWithLabelSelector"].partition("=")
    assert fakenodes.fake_node(0)["metadata"]["labels"][key] == value
    assert fakenodes.fake_node(0)["spec"]["taints"] == [fakenodes.TAINT]


@pytest.mark.parametrize(
    ("group", "resource", "is_handled"),
    [
        ("kueue.x-k8s.io", "clusterqueues", True),
        ("ray.io", "rayclusters", True),
        ("batch", "jobs", True),
        ("", "pods", False),
        ("apps", "deployments", False),
        ("ray.io", "rayservices", False),
    ],
)
def test_only_kinds_that_kueue_handles_wait_for_its_webhooks(
    group: str, resource: str, is_handled: bool
) -> None:
    hook = {"rules": [{"apiGroups": [group], "resources": [resource]}]}
    assert kueue.is_handled(hook) is is_handled
