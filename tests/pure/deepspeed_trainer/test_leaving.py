"""The hook of a pod that is told to go: who it tells, and whom it waits for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepspeed_trainer import leaving
from deepspeed_trainer.contract import LEAVE_COMMAND, LEAVE_DIR_ENV, LEAVE_GRACE_ENV


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    return tmp_path / "leave"


@pytest.fixture
def hook(pod: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The hook as the kubelet runs it."""
    with subprocess.Popen([sys.executable, *LEAVE_COMMAND[1:]], env=env_of(pod)) as process:
        yield process
        process.kill()


def env_of(pod: Path) -> dict[str, str]:
    return {**os.environ, LEAVE_DIR_ENV: str(pod), LEAVE_GRACE_ENV: "30"}


def run_hook(pod: Path) -> None:
    """Raises when it waits for somebody."""
    command = [sys.executable, *LEAVE_COMMAND[1:]]
    subprocess.run(command, env=env_of(pod), timeout=30, check=True)


def wait_until_told(pod: Path) -> None:
    while leaving.read_grace_s(pod) is None:
        pass


def test_nobody_is_told_where_there_is_no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEAVE_DIR_ENV, raising=False)
    assert leaving.find_folder() is None
    assert leaving.read_grace_s(None) is None
    with leaving.tenancy(None):
        assert leaving.main() == 0


def test_a_pod_without_ranks_goes_at_once(pod: Path, hook: subprocess.Popen[bytes]) -> None:
    assert hook.wait(60) == 0
    assert leaving.read_grace_s(pod) == 30.0


def test_the_hook_waits_until_the_last_rank_has_left(pod: Path) -> None:
    with leaving.tenancy(pod):
        hook = subprocess.Popen([sys.executable, *LEAVE_COMMAND[1:]], env=env_of(pod))
        wait_until_told(pod)
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(1.0)
    assert hook.wait(60) == 0


def test_a_rank_that_has_died_is_not_waited_for(pod: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    (pod / "tenants").mkdir(parents=True)
    (pod / "tenants" / str(dead.pid)).touch()
    run_hook(pod)


def test_a_rank_that_does_not_hear_from_its_head_is_not_waited_for(pod: Path) -> None:
    leaving.enter(pod)
    with leaving.asking(pod):
        [note] = (pod / "asking").iterdir()
        os.utime(note, (1.0, 1.0))
        run_hook(pod)
    assert not list((pod / "asking").iterdir())


def test_a_rank_that_asks_and_is_answered_holds_its_pod(pod: Path) -> None:
    with leaving.tenancy(pod), leaving.asking(pod):
        hook = subprocess.Popen([sys.executable, *LEAVE_COMMAND[1:]], env=env_of(pod))
        wait_until_told(pod)
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(1.0)
    assert hook.wait(60) == 0


def test_the_board_holds_its_pod_until_it_has_concluded(pod: Path) -> None:
    held = leaving.HeldPod(pod)
    assert held.hold() is None
    hook = subprocess.Popen([sys.executable, *LEAVE_COMMAND[1:]], env=env_of(pod))
    wait_until_told(pod)
    assert held.hold() == 30.0
    with pytest.raises(subprocess.TimeoutExpired):
        hook.wait(1.0)
    held.release()
    assert hook.wait(60) == 0


def test_who_leaves_twice_does_no_harm(pod: Path) -> None:
    leaving.enter(pod)
    leaving.leave(pod)
    leaving.leave(pod)
    run_hook(pod)
