"""Where no real cluster can be had: it is said in one sentence, and the local demo takes over."""

import subprocess

import pytest
import yaml

from tools import demo, ground, localdemo


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A Linux machine with root, namespaces and no Docker engine."""
    monkeypatch.setattr(ground.platform, "system", lambda: "Linux")
    monkeypatch.setattr(ground.os, "geteuid", lambda: 0)
    monkeypatch.setattr(ground, "docker_answers", lambda: False)
    monkeypatch.setattr(ground, "PROBE", ("true",))
    monkeypatch.delenv("CLUSTER", raising=False)
    ground.find_obstacle.cache_clear()
    yield monkeypatch
    ground.find_obstacle.cache_clear()


def test_root_on_linux_with_namespaces_can_have_nodes(machine) -> None:
    assert ground.find_obstacle() is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("os.geteuid", lambda: 1000, "nodes need root"),
        ("platform.system", lambda: "Darwin", "this is Darwin"),
        ("PROBE", ("false",), "namespaces"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(machine, name, value, said) -> None:
    machine.setattr(f"tools.ground.{name}", value)
    told = ground.find_obstacle()
    assert said in told
    assert told.endswith("and no Docker engine answers")
    assert "\n" not in told


def test_an_engine_that_answers_is_pointed_to(machine) -> None:
    machine.setattr(ground.os, "geteuid", lambda: 1000)
    machine.setattr(ground, "docker_answers", lambda: True)
    assert ground.find_obstacle().endswith("a Docker engine answers, which CLUSTER=kind would use")


def test_an_existing_cluster_needs_nothing_of_this_machine(machine) -> None:
    machine.setattr(ground.os, "geteuid", lambda: 1000)
    machine.setenv("CLUSTER", "existing")
    assert ground.find_obstacle() is None


def test_a_demo_that_was_asked_for_another_cluster_is_not_played_here(machine, capsys) -> None:
    machine.setenv("CLUSTER", "kind")
    machine.setattr("sys.argv", ["demo"])
    machine.setattr(localdemo, "perform", lambda _: 0)
    assert demo.main() == 1
    assert capsys.readouterr().err.startswith("demo: CLUSTER=kind needs a Docker engine")


def test_a_docker_engine_that_does_not_answer_is_none(machine, tmp_path) -> None:
    machine.undo()
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    machine.setenv("PATH", str(tmp_path))
    assert not ground.docker_answers()
    program.write_text("#!/bin/sh\nexit 0\n")
    machine.setenv("PATH", f"{tmp_path}:/bin")
    assert ground.docker_answers()


def test_the_demo_runs_on_this_machine_where_it_must(machine, monkeypatch) -> None:
    machine.setattr(ground.os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["demo"])
    monkeypatch.setattr(localdemo, "perform", len)
    assert demo.main() > 0


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """Everything that the local demo needs is there; dsjob ends with the given code."""
    monkeypatch.setattr(localdemo, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(localdemo, "run_steps", lambda *_, **__: [])

    def end_with(code: int) -> None:
        done = subprocess.CompletedProcess([], code)
        monkeypatch.setattr(localdemo.subprocess, "run", lambda *_, **__: done)

    return end_with


def test_the_obstacle_is_the_last_sentence_of_a_local_demo(prepared, capsys) -> None:
    prepared(0)
    assert localdemo.perform("no real cluster can be had here: why") == 0
    assert (
        capsys.readouterr().out.splitlines()[-1].endswith("no real cluster can be had here: why.")
    )


def test_a_local_demo_that_fails_fails(prepared) -> None:
    prepared(1)
    assert localdemo.perform("why") == 1


def test_the_manifest_differs_in_its_optimizer_alone() -> None:
    text = (localdemo.EXAMPLE / "job.yaml").read_text()
    job = list(yaml.safe_load_all(localdemo.with_plain_optimizer(text)))[1]
    params = job["spec"]["deepspeed"]["config"]["optimizer"]["params"]
    assert params.pop("torch_adam") is True
    assert job == list(yaml.safe_load_all(text))[1]


def test_versions_are_those_of_the_images() -> None:
    assert localdemo.read_argument(localdemo.IMAGE / "Dockerfile", "TORCH").startswith("torch==")
    assert "==" in localdemo.model_package()
