"""A lock that a killed build left is taken away; one of a build that goes on is not."""

import tempfile
from pathlib import Path

import pytest

from deepspeed_trainer.rank.buildlocks import FOLDER_ENV, find_folder, sweep_locks


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pod's own /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def a_lock(folder: Path) -> Path:
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.touch()
    return lock


def test_a_lock_that_nobody_holds_goes(pod: Path) -> None:
    named = a_lock(pod / "ext" / "fused_adam")
    assert sweep_locks({FOLDER_ENV: str(pod / "ext")}) == [named]
    own = a_lock(pod / ".cache" / "torch_extensions" / "py311_cpu" / "fused_adam")
    assert sweep_locks({"HOME": str(pod)}) == [own]
    assert not named.exists()
    assert not own.exists()


def test_a_lock_that_a_build_holds_stays(pod: Path) -> None:
    lock = a_lock(pod / "ext" / "cpu_adam")
    with lock.open():
        assert sweep_locks({FOLDER_ENV: str(pod / "ext")}) == []
    assert lock.exists()


def test_a_folder_that_others_may_share_is_left_alone(pod: Path, tmp_path: Path) -> None:
    lock = a_lock(tmp_path / "home" / "ext" / "cpu_adam")
    assert sweep_locks({FOLDER_ENV: str(tmp_path / "home" / "ext")}) == []
    assert lock.exists()


def test_torchs_own_folder_is_found() -> None:
    assert find_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/torch_extensions")
    assert find_folder({"HOME": "/h"}) == Path("/h/.cache/torch_extensions")
