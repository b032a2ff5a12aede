"""The other clusters, as far as the tests' own can stand for them.

Taken for somebody else's, it is found fit and gets the chart. What a kind cluster would load, and
what is pushed to a registry, the containerd of one of its nodes takes.
"""

import asyncio
from pathlib import Path

import pytest

from devcluster import images
from devcluster.cluster import Cluster
from devcluster.steps import Shell
from tests.support.kube import Kube
from tests.support.registry import registry
from tools import cluster as chosen
from tools import kind
from tools.choice import EXISTING
from tools.images import OPERATOR, RECIPES, name_in, push
from tools.install import NAMESPACE, RELEASE, await_operator, dev_values, install_chart


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "log")


@pytest.fixture
def store(cluster: Cluster, shell: Shell):
    """The words that work on images of a node's containerd, in a corner that is cleared again."""
    words = ["ctr", "--address", cluster.nodes[0].socket, "--namespace", "corner", "images"]
    yield words
    for name in shell.output([*words, "ls", "--quiet"]).split():
        shell.run([*words, "rm", "--sync", name])


@pytest.mark.usefixtures("operator")
def test_a_cluster_that_exists_is_found_fit_and_gets_the_chart(
    cluster: Cluster, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTER", EXISTING)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    target = chosen.up("of no meaning here")
    assert (target.dev, target.storage_class) == (None, "shared")
    kube.delete("deployment", RELEASE, NAMESPACE)
    install_chart(target, dev_values(target.images))
    await_operator(target)
    assert kube.get("deployment", RELEASE, NAMESPACE)["status"]["readyReplicas"] == 1
    assert not chosen.give_back(cluster.name), "somebody else's is never deleted"
    assert not cluster.ailments()


def test_the_archive_for_kind_is_one_that_containerd_loads(
    store: list[str | Path], shell: Shell, tmp_path: Path
) -> None:
    archive = tmp_path / "image.tar"
    kind.archive_image(shell, OPERATOR, archive)
    assert images.from_archive(archive).reference == OPERATOR
    # As kind calls it on each node.
    shell.run([*store, "import", "--all-platforms", "--digests", archive])
    assert OPERATOR in shell.output([*store, "ls", "--quiet"]).split()


async def test_what_is_pushed_is_there_under_the_name_that_nodes_are_told(
    store: list[str | Path], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The operator's image alone: the others take minutes to be packed.
    monkeypatch.setattr("tools.images.RECIPES", RECIPES[:1])
    async with registry(tmp_path) as host:
        settings = tmp_path / "registries.conf"
        settings.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(settings))
        await asyncio.to_thread(push, shell, f"{host}/team")
        told = name_in(f"{host}/team", OPERATOR)
        await asyncio.to_thread(shell.run, [*store, "pull", "--plain-http", told])
