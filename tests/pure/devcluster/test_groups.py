"""What a cluster's control groups are given, in trees of both versions."""

from pathlib import Path

import pytest

from devcluster import groups


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A tree of each version, with the files that the kernel would put into a new group."""
    found = {name: tmp_path / name for name in ("version1", "version2", "without")}
    for name, weight in (("version1", "cpu.shares"), ("version2", "cpu.weight")):
        group = found[name] / "devcluster-demo"
        group.mkdir(parents=True)
        (group / weight).write_text("as the kernel has it")
    monkeypatch.setattr(groups, "hierarchies", lambda: list(found.values()))
    return found


@pytest.mark.parametrize(
    ("tree", "file", "weight"),
    [("version1", "cpu.shares", "10240"), ("version2", "cpu.weight", "1000")],
)
def test_a_cluster_weighs_more_than_one_process(
    trees: dict[str, Path], tree: str, file: str, weight: str
) -> None:
    groups.make_groups("devcluster-demo/node1")
    assert (trees[tree] / "devcluster-demo" / file).read_text() == weight


def test_a_tree_without_weights_gets_no_such_file(trees: dict[str, Path]) -> None:
    groups.make_groups("devcluster-demo/node1")
    assert [f.name for f in (trees["without"] / "devcluster-demo").iterdir()] == ["node1"]
