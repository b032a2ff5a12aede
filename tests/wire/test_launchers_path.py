"""The programs by the launchers' names run under the supervisor's Python, whatever PATH has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV
from deepspeed_trainer.rank.node import NODE_ENV, NodeOrder, RankStart
from deepspeed_trainer.rank.rankenv import LAUNCHERS_PATH, launchers_env

IMPORTS = "import beside"
PYTHONPATH = os.pathsep.join(filter(None, sys.path))


@pytest.mark.parametrize("name", sorted(path.name for path in Path(LAUNCHERS_PATH).iterdir()))
def test_a_launcher_runs_under_the_supervisors_python(tmp_path: Path, name: str) -> None:
    for other in ("python", "python3"):
        (tmp_path / other).write_text("#!/bin/sh\nexit 9\n")
        (tmp_path / other).chmod(0o755)
    own = {"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    env = {**own, **launchers_env(own), "PYTHONPATH": PYTHONPATH}
    words = [name, "launch", "train.py"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert f"{name} starts a process for every rank of a node" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(("hosts", "is_found"), [({"a": 1, "b": 1}, True), ({"a": 1}, False)])
def test_ranks_of_several_nodes_import_from_where_deepspeed_was_started(
    tmp_path: Path, hosts: dict[str, int], is_found: bool
) -> None:
    for path, text in (("here/beside.py", "print('found')"), ("here/src/train.py", IMPORTS)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    of_rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(len(hosts))}
    order = NodeOrder(str(tmp_path), hosts, (RankStart(0, 0, of_rank, None),), 1)
    env = {**os.environ, **launchers_env(os.environ), DESCENDANTS_ENV: "1"}
    env |= {"PYTHONPATH": PYTHONPATH, NODE_ENV: order.to_json(), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["deepspeed", "src/train.py"],
        cwd=tmp_path / "here",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("[rank 0] found\n" in done.stdout) is is_found
    assert ("No module named 'beside'" in done.stdout) is not is_found
