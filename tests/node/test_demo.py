"""The demo is a test: two nodes learn from real text, and whoever looks sees it.

It runs the program of `make demo` on the tests' cluster and reads what a user would read.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.kube import Kube, condition
from tools.target import Target

ROOT = Path(__file__).resolve().parents[2]
JOB = "deepspeedjobs.dsjob.dev"
NAME, NAMESPACE = "quickstart", "default"
CHANCE, LEARNT = 0.5, 0.7


@dataclass(frozen=True)
class Demo:
    """What the demo printed, how it ended, and the job that it left."""

    said: str
    exit_code: int
    job: dict[str, Any]

    def metric(self, name: str) -> float:
        found = self.job["status"]["progress"]["metrics"]
        return next(float(each["value"]) for each in found if each["name"] == name)


@pytest.fixture(scope="module")
def demo(target: Target, kube: Kube):
    """The demo, run once; its job is deleted at the end."""
    command = [sys.executable, "-m", "tools.demo", "--name", target.name]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(done.stdout)
    yield Demo(done.stdout, done.returncode, kube.get(JOB, NAME, NAMESPACE))
    kube.delete(JOB, NAME, NAMESPACE)
    kube.delete("pvc", NAME, NAMESPACE)


def test_the_demo_ends_well(demo: Demo) -> None:
    assert demo.exit_code == 0, demo.said[-4000:]
    for kind in ("Complete", "Finished"):
        assert condition(demo.job, kind)["status"] == "True"
    assert demo.job["status"]["phase"] == "Succeeded"


def test_the_model_has_learnt_to_tell_glosses_apart(demo: Demo) -> None:
    assert demo.metric("accuracy") >= LEARNT > CHANCE


def test_both_nodes_took_part(demo: Demo) -> None:
    assert demo.job["status"]["worldSize"] == demo.job["spec"]["nodes"] == 2


def test_progress_was_shown_while_it_ran(demo: Demo) -> None:
    steps = {
        line.split("step ")[1].split("/")[0] for line in demo.said.splitlines() if "step " in line
    }
    assert len(steps) >= 3, demo.said
    assert f"kubectl get dsjob {NAME}" in demo.said
    assert "make down" in demo.said


def test_the_whole_run_was_one_attempt(demo: Demo) -> None:
    [attempt] = demo.job["status"]["attempts"]
    assert (attempt["number"], attempt["state"]) == (1, "Succeeded")
    assert demo.job["status"]["restarts"] == 0


def test_nothing_of_the_cluster_is_left_behind(demo: Demo, kube: Kube) -> None:
    assert not kube.list("rayclusters", NAMESPACE)
