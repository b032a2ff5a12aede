"""A local run seen from `dsjob`: its keeper is played here, over real pipes and sockets.

What the keeper does with Ray is in tests/trainer.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "operator"), str(ROOT / "trainer_image"), os.environ.get("PYTHONPATH", "")]
JOB: dict[str, Any] = {
    "apiVersion": "dsjob.dev/v1alpha1",
    "kind": "DeepSpeedJob",
    "metadata": {"name": "bert"},
    "spec": {
        "nodes": 1,
        "gpusPerNode": 1,
        "accelerator": {"type": "CPU"},
        "entrypoint": {"script": "train.py"},
    },
}
KEEPER = """#!{python}
import atexit, json, os, shutil, sys, time
sys.path.insert(0, {trainer!r})
if sys.argv[1] == "-c":
    print(json.dumps({{"missing": [], "python": [3, 11], "ray": "2.60.0", "devices": 0}}))
    sys.exit()
order = json.loads(sys.stdin.readline())
atexit.register(shutil.rmtree, order["folder"], True)
contract = json.loads(order["contract"])
with open({seen!r}, "w") as file:
    json.dump({{"order": order, "path": os.environ["PYTHONPATH"], "pid": os.getpid()}}, file)
from deepspeed_trainer.contract import Cause, Failure, Progress, RunPhase
from deepspeed_trainer.board.endpoint import ProgressServer

def answer(**facts):
    answers[contract["submission_id"]] = Progress(
        submission_id=contract["submission_id"], attempt=1, **facts).to_json()

def tell(**fact):
    print(json.dumps(fact), flush=True)

answers = {{}}
server = ProgressServer(0, order["token"], answers.get)
server.start()
{play}
sys.stdin.read()
"""
TRAIN = """
tell(event="driver", progressPort=server.server_address[1])
answer(phase=RunPhase.RUNNING, step=1, total_steps=2, loss="0.5")
time.sleep(1.2)
answer(phase=RunPhase.SUCCEEDED, step=2, total_steps=2, loss="0.4")
tell(event="ended", exitCode=0)
"""
FAIL = """
tell(event="driver", progressPort=server.server_address[1])
os.makedirs(os.path.dirname(order["driverLog"]) + "/logs")
with open(os.path.dirname(order["driverLog"]) + "/logs/rank-00000.log", "w") as file:
    file.write("before\\n\\x1b[31mboom\\x1b[0m\\n")
answer(phase=RunPhase.FAILED, failure=Failure(Cause.USER_ERROR, "it raised", rank=0, exit_code=1))
tell(event="ended", exitCode=10)
"""
HANG = 'tell(event="driver", progressPort=server.server_address[1])'


class Played:
    """`dsjob run --local` whose Python is a keeper of ours."""

    def __init__(self, folder: Path, play: str, *more: str) -> None:
        self.folder, self.seen = folder, folder / "seen.json"
        self.storage = folder / "storage"
        (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
        python = folder / "python"
        trainer = str(ROOT / "trainer_image")
        python.write_text(
            KEEPER.format(python=sys.executable, trainer=trainer, seen=str(self.seen), play=play)
        )
        python.chmod(0o755)
        words = ["run", "--local", "-f", "job.yaml", "--python", python, "--storage", "storage"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deepspeed_operator.cli", *words, *more],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        try:
            out, err = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out, err

    def order(self) -> dict[str, Any]:
        """What the keeper was told, once it has been."""
        deadline = time.monotonic() + 30
        while not (self.seen.exists() and self.seen.read_text().endswith("}")):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found: dict[str, Any] = json.loads(self.seen.read_text())
        return found


def await_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} is left"
        time.sleep(0.05)


def test_a_run_is_followed_to_its_good_end(tmp_path: Path) -> None:
    run = Played(tmp_path, TRAIN)
    code, out, err = run.end()
    assert code == 0, err
    assert "Running     step 1/2  loss 0.5" in err
    assert "bert  Succeeded" in out
    assert "step 2/2  loss 0.4" in out


def test_the_keeper_gets_the_contract_and_our_trainer_alone(tmp_path: Path) -> None:
    run = Played(tmp_path, TRAIN)
    run.end()
    found = run.order()
    contract = json.loads(found["order"]["contract"])
    assert contract["entrypoint"]["target"] == "train.py"
    assert contract["storage"] == str(run.storage)
    site = Path(found["path"].split(os.pathsep)[0])
    assert site.name == "site"
    assert not site.exists(), "its folder is gone with the run"


def test_a_failure_prints_what_the_ranks_wrote_and_exits_with_1(tmp_path: Path) -> None:
    code, out, err = Played(tmp_path, FAIL).end()
    assert code == 1
    assert "UserError: it raised" in out
    assert "rank-00000.log, its last lines:\n    │ before\n    │ boom" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("play", "said"),
    [
        ('tell(event="failed", message="Ray is ill")', "Ray is ill"),
        ('sys.exit("the keeper is ill")', "the keeper is ill"),
    ],
)
def test_a_ray_that_does_not_start_is_told_with_its_words(
    tmp_path: Path, play: str, said: str
) -> None:
    code, out, _ = Played(tmp_path, play).end()
    assert code == 1
    assert said in out


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=lambda each: getattr(each, "name", ""),
)
def test_whatever_ends_dsjob_ends_the_keepers_input(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = Played(tmp_path, HANG)
    keeper = run.order()["pid"]
    run.process.send_signal(number)
    assert run.end()[0] == code
    await_end(keeper)


def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    run = Played(tmp_path, HANG, "--timeout", "1")
    code, _, err = run.end()
    assert code == 4
    assert "did not finish within 1 s; it is stopped" in err
    await_end(run.order()["pid"])


def test_what_a_killed_keeper_leaves_behind_is_ended(tmp_path: Path) -> None:
    child = 'import subprocess; subprocess.Popen(["sleep", "600"], start_new_session=True)'
    run = Played(tmp_path, f"{child}\n{HANG}")
    keeper = run.order()["pid"]
    orphan = await_child(keeper)
    os.kill(keeper, signal.SIGKILL)
    assert run.end()[0] == 1
    await_end(orphan)


def await_child(pid: int) -> int:
    """The one child of a process, once it is there."""
    deadline = time.monotonic() + 30
    path = Path(f"/proc/{pid}/task/{pid}/children")
    while not path.read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(path.read_text().split()[0])
