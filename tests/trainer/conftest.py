"""Tests of the trainer on real parts: Ray, torch and DeepSpeed on this machine, gloo on loopback.

They need an interpreter that has what the trainer image has, and accelerate, so they are started
by name:
`<that python> -m pytest -c tests/trainer/pytest.ini tests/trainer`.  Under any other interpreter
nothing is collected here, and the examples only where their image's packages are.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.seeds import MARK, note

EXAMPLES_NEED = ("accelerate", "datasets", "lightning", "torchmetrics", "transformers")
collect_ignore = [] if all(map(importlib.util.find_spec, EXAMPLES_NEED)) else ["test_examples.py"]
if all(importlib.util.find_spec(name) for name in ("ray", "torch", "deepspeed")):
    from tests.trainer.raycluster import RayCluster
else:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    note(items)


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
