"""The programs by the launchers' names run under the supervisor's Python, whatever PATH has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepspeed_trainer.rank.rankenv import LAUNCHERS_PATH, launchers_env


@pytest.mark.parametrize("name", sorted(path.name for path in Path(LAUNCHERS_PATH).iterdir()))
def test_a_launcher_runs_under_the_supervisors_python(tmp_path: Path, name: str) -> None:
    for other in ("python", "python3"):
        (tmp_path / other).write_text("#!/bin/sh\nexit 9\n")
        (tmp_path / other).chmod(0o755)
    own = {"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    env = {**own, **launchers_env(own), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [name, "launch", "train.py"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert f"{name} starts a process for every rank of a node" in done.stderr
    assert done.returncode == 2
