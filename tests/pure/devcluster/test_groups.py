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


@pytest.fixture
def node_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's group in a version 1 tree, with a pod of two cores and one without a limit."""
    monkeypatch.setattr(groups, "hierarchies", lambda: [tmp_path])
    top = tmp_path / "devcluster-demo" / "node1"
    for folder, quota in ((top, -1), (top / "kubepods" / "limited", 200_000),
                          (top / "kubepods" / "free", -1), (top / "kubepods", -1)):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    return top


def quotas(top: Path) -> dict[str, int]:
    found = top.rglob("cpu.cfs_quota_us")
    return {str(file.parent.relative_to(top)): int(file.read_text()) for file in found}


def test_groups_within_are_lowered_before_the_node_and_raised_after_it(node_group: Path) -> None:
    before = quotas(node_group)
    limits = groups.cpu_limits("devcluster-demo/node1", 0.5)
    assert [Path(file).parent.name for file in limits] == ["limited", "node1"]
    undo = groups.present(limits)
    groups.write(limits)
    assert groups.cpu_limit("devcluster-demo/node1") == 0.5
    assert quotas(node_group) == {**before, ".": 50_000, "kubepods/limited": 50_000}
    assert [Path(file).parent.name for file in undo] == ["node1", "limited"]
    groups.write(undo)
    assert quotas(node_group) == before
    assert groups.cpu_limit("devcluster-demo/node1") is None


def test_a_pod_that_has_ended_meanwhile_is_left_out(node_group: Path) -> None:
    limits = groups.cpu_limits("devcluster-demo/node1", 0.5)
    for file in (node_group / "kubepods" / "limited").iterdir():
        file.unlink()
    groups.write(limits)
    assert groups.cpu_limit("devcluster-demo/node1") == 0.5


def test_one_file_limits_a_node_in_a_version_2_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "hierarchies", lambda: [tmp_path])
    file = tmp_path / "devcluster-demo" / "node1" / "cpu.max"
    file.parent.mkdir(parents=True)
    file.write_text("max 100000\n")
    assert groups.cpu_limit("devcluster-demo/node1") is None
    limits = groups.cpu_limits("devcluster-demo/node1", 0.25)
    assert limits == {str(file): "25000 100000"}
    groups.write(limits)
    assert groups.cpu_limit("devcluster-demo/node1") == 0.25
