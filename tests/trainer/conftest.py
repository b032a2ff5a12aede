"""Tests of the trainer on real parts: Ray, torch and DeepSpeed on this machine, gloo on loopback.

They need an interpreter that has what the trainer image has, and accelerate, so they are started
by name:
`<that python> -m pytest -c tests/trainer/pytest.ini tests/trainer`.  Under any other interpreter
nothing is collected here.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

if all(importlib.util.find_spec(name) for name in ("ray", "torch", "deepspeed")):
    from tests.trainer.raycluster import RayCluster
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator["RayCluster"]:
    """A Ray cluster of a head and two worker pods with one rank each."""
    with RayCluster(pods=("worker-a", "worker-b")) as running:
        yield running


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The job's volume, seen by all pods at one path."""
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder
