"""CLUSTER=kind as far as it goes without an engine: which words docker and kind are told.

The programs on PATH here are recorded ones: they write down what they are asked and answer as the
real ones are documented to. No real kind has been told any of this.
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from devcluster import manifests
from devcluster.errors import DevclusterError, StepFailed
from tools import cluster, ground, images, kind
from tools.images import OPERATOR, QUICKSTART, TRAINER

PROGRAM = """#!/bin/sh
printf '%s' "$(basename "$0")" >> "$RECORD"
printf ' %s' "$@" >> "$RECORD"
echo >> "$RECORD"
case "$(basename "$0") $1 $2" in
  "kind get clusters") cat "$CLUSTERS" ;;
  "kind create cluster") echo dsjob-demo >> "$CLUSTERS" ;;
  "kind delete cluster") : > "$CLUSTERS" ;;
  "docker image inspect") echo sha256:of-$5 ;;
  "docker save --output") touch "$3" ;;
  kubectl*) cat >> "$RECORD.stdin" ;;
esac
test "$FAILS" != "$1 $2"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of a user who is not root, with an engine and kind; returns the record of calls."""
    for name in ("docker", "kind", "helm", "kubectl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
    record, clusters = tmp_path / "record", tmp_path / "clusters"
    record.touch()
    clusters.touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.defpath}:/bin")
    monkeypatch.setenv("CLUSTER", "kind")
    for name, value in (("RECORD", record), ("CLUSTERS", clusters), ("FAILS", "")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(kind, "ROOT", tmp_path)
    monkeypatch.setattr(ground.os, "geteuid", lambda: 1000)
    ground.find_obstacle.cache_clear()
    yield record
    ground.find_obstacle.cache_clear()


def calls(record: Path, *start: str) -> list[str]:
    return [line for line in record.read_text().splitlines() if line.startswith(" ".join(start))]


def test_an_engine_and_kind_are_all_that_it_needs(machine: Path) -> None:
    assert ground.find_obstacle() is None
    assert calls(machine) == ["docker info"]


@pytest.mark.parametrize("lacking", ["docker", "kind"])
def test_what_is_missing_is_said_with_the_fix(machine: Path, monkeypatch, lacking: str) -> None:
    (machine.parent / "bin" / lacking).unlink()
    monkeypatch.setenv("PATH", str(machine.parent / "bin"))
    told = ground.find_obstacle()
    assert told is not None
    assert told.startswith("CLUSTER=kind needs")
    assert ("start one" if lacking == "docker" else "install it") in told


def test_a_cluster_is_made_and_filled(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = cluster.up("demo")
    folder = machine.parent / "build" / "kind" / "demo"
    assert capsys.readouterr().out.startswith("CLUSTER=kind: untried with a real Docker engine")
    assert target.environment["KUBECONFIG"] == str(folder / "kubeconfig")
    [created] = calls(machine, "kind create cluster")
    assert created == (
        f"kind create cluster --name dsjob-demo --kubeconfig {folder}/kubeconfig"
        f" --config {folder}/kind.json --wait 180s"
    )
    built = [line.split(" --tag ")[1].split()[0] for line in calls(machine, "docker build")]
    assert built == [OPERATOR, TRAINER, QUICKSTART]
    assert "--build-arg TRAINER_IMAGE=" + TRAINER in calls(machine, "docker build")[2]
    loads = [line for line in calls(machine) if line.startswith(("docker save", "kind load"))]
    expected = []
    for tag in built:
        expected.append(f"docker save --output {folder}/image.tar {tag}")
        expected.append(f"kind load image-archive {folder}/image.tar --name dsjob-demo")
    assert loads == expected
    assert not (folder / "image.tar").exists()


def test_kuberay_comes_from_its_chart_in_the_version_that_is_tested(machine: Path) -> None:
    cluster.up("demo")
    [helm] = calls(machine, "helm")
    assert "upgrade --install kuberay-operator kuberay-operator --repo https://" in helm
    assert "--version 1.6.2 " in helm


def test_workers_share_the_folder_in_which_the_volumes_lie(machine: Path) -> None:
    cluster.up("demo")
    folder = machine.parent / "build" / "kind" / "demo"
    config = yaml.safe_load((folder / "kind.json").read_text())
    roles = [node["role"] for node in config["nodes"]]
    assert roles == ["control-plane", "worker", "worker"]
    applied = json.loads(Path(f"{machine}.stdin").read_text())["items"]
    paths = [
        each["spec"]["hostPath"]["path"] for each in applied if each["kind"] == "PersistentVolume"
    ]
    assert len(paths) == manifests.VOLUMES
    for worker in config["nodes"][1:]:
        [mount] = worker["extraMounts"]
        for path in paths:
            here = Path(path.replace(mount["containerPath"], mount["hostPath"]))
            assert here.stat().st_mode & 0o777 == 0o777, "pods of any user may write"


def test_a_second_time_only_what_changed_is_loaded(machine: Path) -> None:
    cluster.up("demo")
    machine.write_text("")
    cluster.up("demo")
    assert len(calls(machine, "kind export kubeconfig --name dsjob-demo")) == 1
    assert not calls(machine, "kind create")
    assert not calls(machine, "kind load")


def test_root_takes_the_images_that_set_up_has_built(machine: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(kind, "find_obstacle_to_nodes", lambda: None)
    monkeypatch.setattr(kind.imagebuild, "is_root", lambda: True)
    monkeypatch.setattr(kind.imagebuild, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(kind.images, "storage", lambda: tmp_path / "storage")
    monkeypatch.setattr(kind.images, "resolve", images_like)
    buildah = machine.parent / "bin" / "buildah"
    buildah.write_text(PROGRAM)
    buildah.chmod(0o755)
    cluster.up("demo")
    archive = tmp_path / "build" / "kind" / "demo" / "image.tar"
    pushed = [line.partition(" push ")[2] for line in calls(machine, "buildah") if "push" in line]
    assert pushed == [
        f"{tag} docker-archive:{archive}:{tag}" for tag in (OPERATOR, TRAINER, QUICKSTART)
    ]
    assert not calls(machine, "docker")


def images_like(tag: str) -> kind.images.Image:
    return kind.images.Image(tag, "0" * 64)


def test_what_kind_refuses_ends_it(machine: Path, monkeypatch) -> None:
    monkeypatch.setenv("FAILS", "create cluster")
    with pytest.raises(StepFailed, match="kind"):
        cluster.up("demo")


def test_down_empties_volumes_and_deletes_the_cluster(machine: Path) -> None:
    cluster.up("demo")
    assert cluster.down("demo") == "demo is gone"
    [emptied] = calls(machine, "docker exec dsjob-demo-worker sh -c rm -rf")
    assert kind.VOLUMES in emptied
    assert calls(machine, "kind delete cluster --name dsjob-demo")
    assert not (machine.parent / "build" / "kind" / "demo").exists()
    assert cluster.down("demo") == "there is no cluster demo"


def test_somebody_elses_cluster_is_neither_used_nor_deleted(machine: Path) -> None:
    (machine.parent / "clusters").write_text("demo\n")
    assert cluster.down("demo") == "there is no cluster demo"
    cluster.up("demo")
    assert calls(machine, "kind create cluster --name dsjob-demo")
    assert not calls(machine, "kind delete")


def test_a_refusal_to_delete_is_passed_on(machine: Path, monkeypatch) -> None:
    cluster.up("demo")
    monkeypatch.setenv("FAILS", "delete cluster")
    with pytest.raises(DevclusterError, match="kind delete"):
        cluster.down("demo")


def test_set_up_builds_no_nodes_for_it(machine: Path) -> None:
    assert images.demo_steps() == []
