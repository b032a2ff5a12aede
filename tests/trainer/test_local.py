"""A local run's keeper with a real Ray: it trains as ordered, and nothing is left of it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.contract import (
    Entrypoint,
    EntrypointKind,
    JobRef,
    Progress,
    RunContract,
    attempt_dir,
)
from tests.trainer.attempts import CONFIG
from tests.trainer.raycluster import PROGRAMS, ROOT, wait_until

RUN_S = 300.0


class Local:
    """A keeper and what it answers."""

    def __init__(self, storage: Path, program: str, *args: str) -> None:
        # Short, because Ray's sockets lie in it.
        self.folder = Path(tempfile.mkdtemp(prefix="lt", dir="/tmp"))
        self.token = secrets.token_hex(16)
        self.contract = RunContract(
            job=JobRef("team", "bert", "local-1"),
            run="run-1",
            attempt=1,
            submission_id="local-1-a1",
            nodes=2,
            ranks_per_node=1,
            accelerator="cpu",
            backend="gloo",
            cpus_per_rank=1.0,
            gpus_per_rank=0,
            entrypoint=Entrypoint(EntrypointKind.SCRIPT, program, args),
            deepspeed_config=CONFIG if program == "tiny.py" else None,
            storage=str(storage),
            head_pod_uid="local-head",
            stop_grace_s=2,
        )
        job = self.contract.job
        self.attempt = Path(attempt_dir(str(storage), job, "run-1", 1))
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "deepspeed_trainer.local"],
            cwd=PROGRAMS,
            env={**os.environ, "PYTHONPATH": str(ROOT / "trainer_image")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        order = {
            "contract": self.contract.to_json(),
            "folder": str(self.folder),
            "driverLog": str(self.attempt / "driver.log"),
            "token": self.token,
            "devices": [],
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self.port = 0

    def hear(self) -> dict[str, Any]:
        """The keeper's next fact."""
        assert self.process.stdout is not None
        fact: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.port = fact.get("progressPort", self.port)
        return fact

    def progress(self) -> Progress:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/progress/{self.contract.submission_id}",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return Progress.from_json(answer.read())

    def rank_logs(self) -> list[Path]:
        return sorted((self.attempt / "logs").glob("rank-*.log"))

    def await_ranks(self) -> None:
        wait_until(lambda: len(self.rank_logs()) == 2, "the ranks do not start", RUN_S)

    def hang_up(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)

    def processes(self) -> list[int]:
        """Everything that knows the keeper's folder or token."""
        marks = (str(self.folder).encode(), self.token.encode())
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                said = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
                if any(mark in said for mark in marks):
                    found.append(int(process.name))
        return found


@pytest.fixture
def start(storage: Path) -> Iterator[Any]:
    """Starts a keeper; whatever is left of it at the end of the test is killed."""
    running: list[Local] = []

    def begin(*words: str) -> Local:
        running.append(Local(storage, *words))
        return running[-1]

    yield begin
    for each in running:
        each.process.kill()
        each.process.wait()
        for pid in each.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(each.folder, ignore_errors=True)


def test_two_nodes_train_under_zero_3_and_nothing_is_left(start: Any) -> None:
    run = start("tiny.py")
    assert run.hear()["event"] == "driver"
    ended = run.hear()
    assert ended == {"event": "ended", "exitCode": 0}, (run.attempt / "driver.log").read_text()
    progress = run.progress()
    assert (progress.phase, progress.step, progress.world_size) == ("Succeeded", 12, 2)
    assert progress.nodes == 2, "each rank has a worker of its own"
    assert progress.checkpoint is not None
    assert progress.checkpoint.step == 10
    said = [json.loads(_first_json(path)) for path in run.rank_logs()]
    assert [each["cwd"] for each in said] == [str(PROGRAMS)] * 2
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{run.port}/v1/progress/x", timeout=20)
    assert len(run.processes()) > 4, "Ray is up until its keeper's input ends"
    assert run.hang_up() == 0
    assert run.processes() == []
    assert not run.folder.exists()


def test_the_end_of_its_input_ends_a_run_in_order(start: Any) -> None:
    run = start("plain.py", "hang")
    run.hear()
    run.await_ranks()
    assert run.hang_up() == 0
    assert run.processes() == []
    assert not run.folder.exists()
    assert "Stopped" in (run.attempt / "driver.log").read_text()


def test_a_killed_keeper_leaves_no_process(start: Any) -> None:
    run = start("plain.py", "hang")
    run.hear()
    run.await_ranks()
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    wait_until(lambda: not run.processes(), f"{run.processes()} do not end", 60)


def test_a_ray_that_cannot_start_is_told_with_its_words(
    start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Too long for the sockets in it.
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(deep))
    fact = start("plain.py", "hang").hear()
    assert fact["event"] == "failed"
    assert "Ray's head did not start" in fact["message"]


def _first_json(path: Path) -> str:
    return next(line for line in path.read_text().splitlines() if line.startswith('{"'))
