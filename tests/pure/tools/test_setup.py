"""Set-up's arithmetic: what is up to date, what was slow, what a new machine's environment is."""

from functools import partial

import pytest

from devcluster.steps import Outcome
from tools import images, localdemo, setup, test_cold

STEPS = (
    images.all_steps,
    images.bare_steps,
    images.demo_steps,
    images.setup_steps,
    partial(images.push_steps, "host"),
    localdemo.steps,
)


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """An installed .venv that is no more than its files."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "PYTHON", python)
    monkeypatch.setattr(setup, "MARK", tmp_path / "installed")
    setup.MARK.write_text(setup.wanted_mark())
    return tmp_path


def test_an_installed_environment_is_ready(venv) -> None:
    assert setup.is_ready()


def test_other_dependencies_need_another_install(venv) -> None:
    (venv / "pyproject.toml").write_text("[project]\ndependencies = ['x']")
    assert not setup.is_ready()


def test_an_interrupted_install_is_not_ready(venv) -> None:
    setup.MARK.unlink()
    assert not setup.is_ready()


def test_a_venv_without_its_python_is_not_ready(venv) -> None:
    setup.PYTHON.unlink()
    assert not setup.is_ready()


def test_the_slowest_steps_come_first_and_cached_ones_never() -> None:
    outcomes = [Outcome("a", 1), Outcome("b", 9), Outcome("c", 99, cached=True)]
    lines = images.summary(outcomes, 10).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["b", "a"]


def test_nothing_to_do_is_said_in_one_line() -> None:
    told = images.summary([Outcome("a", 0.1, cached=True)], 0.1)
    assert "all 1 parts are there" in told
    assert "\n" not in told


@pytest.mark.parametrize("steps", STEPS)
def test_every_step_of_setup_can_run(steps) -> None:
    names = [step.name for step in steps()]
    assert len(names) == len(set(names))
    assert all(need in names for step in steps() for need in step.needs)


def test_a_cold_run_sees_nothing_of_this_home(monkeypatch) -> None:
    for name in ("GOFLAGS", "VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, "/warm")
    monkeypatch.setenv("PIP_FIND_LINKS", "/a/wheels")
    monkeypatch.setenv("HTTPS_PROXY", "kept")
    found = test_cold.new_environment("/root", "/bin", {"/a/wheels": "/wheels0"})
    assert not [name for name, value in found.items() if value == "/warm"]
    assert (found["PIP_FIND_LINKS"], found["HTTPS_PROXY"]) == ("/wheels0", "kept")


def test_durations_are_read_from_steps_and_tests() -> None:
    lines = [
        "[  20.0s] … still running: kubernetes (20s)\n",
        "[ 245.0s] ✓ kubernetes (245.0s)\n",
        "[   0.0s] ✓ helm (cached)\n",
        "61.20s call     tests/node/test_demo.py::test_the_demo_ends_well\n",
    ]
    assert [seconds for seconds, _ in test_cold.durations(lines)] == [245.0, 61.2]
