"""`dsjob logs` on a real head: while ranks write, and as long as their cluster is kept."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.eventually import eventually
from tests.support.installed import ROOT
from tests.support.kube import Kube
from tests.support.quickstart import JOB, Run
from tools.target import Target

KEPT_S = 3600
STEPS = 6
PATHS = [str(ROOT / "operator"), str(ROOT / "trainer_image"), os.environ.get("PYTHONPATH", "")]


def dsjob(target: Target, run: Run, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **target.environment, "PYTHONPATH": os.pathsep.join(PATHS)}
    command = [sys.executable, "-m", "deepspeed_operator.cli", *words, "-n", run.namespace]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answer(target: Target, run: Run, *words: str) -> tuple[int, str, str]:
    process = dsjob(target, run, *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.usefixtures("operator")
def test_lines_are_followed_to_the_end_and_read_until_the_cluster_goes(
    target: Target, quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    words = ("--steps", str(STEPS), "--held-out", "64")
    run = quickstart(*words, ttlSecondsAfterFinished=KEPT_S)
    with dsjob(target, run, "logs", run.name, "-f", "--rank", "0") as following:
        out, err = following.communicate(timeout=400)
    assert following.returncode == 0, err
    assert "attempt 1:" in err
    assert run.await_condition("Complete")
    steps = [line for line in out.splitlines() if f"/{STEPS}" in line]
    assert steps, out
    assert "[rank" not in out

    code, whole, err = answer(target, run, "logs", run.name, "--rank", "0")
    assert (code, whole) == (0, out), err
    code, both, err = answer(target, run, "logs", run.name)
    assert code == 0, err
    ranks = {line.split("]")[0] for line in both.splitlines()}
    assert ranks == {"[rank 0", "[rank 1"}

    kube.patch(JOB, run.name, {"spec": {"ttlSecondsAfterFinished": 0}}, namespace)
    eventually(lambda: not kube.list("pods", namespace), "the cluster is gone", within_s=60)
    code, out, err = answer(target, run, "logs", run.name)
    assert (code, out) == (1, "")
    assert "its lines are on claim quickstart in " in err
    assert run.read("attempt-1/logs/rank-00000.log") == whole
