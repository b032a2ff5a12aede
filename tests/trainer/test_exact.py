"""A run that is killed again and again ends with the bits of one that never was."""

import json
import os
import subprocess
import sys
from pathlib import Path

from deepspeed_trainer.contract import EXIT_PROGRAM_FAILED, EXIT_SUCCEEDED
from deepspeed_trainer.fingerprint.proof import History, compare, join
from deepspeed_trainer.fingerprint.record import read_segments
from tests.trainer.attempts import CONFIG, Job, Outcome
from tests.trainer.raycluster import PROGRAMS, ROOT, RayCluster, free_ports

ACCUMULATING = {**CONFIG, "gradient_accumulation_steps": 2}
KILLS = ("1:forward:4", "0:accumulation:5", "1:save:6", "0:hash:8")


def history(folder: Path) -> History:
    """What all ranks of all attempts below a folder wrote down."""
    files = sorted(folder.rglob("fingerprint/rank-*.jsonl"))
    return join(each for file in files for each in read_segments(file.read_text(), file.name))


def shards(outcome: Outcome) -> list[str]:
    return [str(outcome.said(rank)["shard"]) for rank in (0, 1)]


def test_a_run_killed_in_every_phase_ends_as_the_undisturbed_one(
    cluster: RayCluster, storage: Path
) -> None:
    calm = Job(cluster, storage, deepspeed_config=ACCUMULATING)
    undisturbed = calm.run(1, "exact.py")
    assert undisturbed.exit_code == EXIT_SUCCEEDED, undisturbed.log
    job = Job(cluster, storage, deepspeed_config=ACCUMULATING)
    for attempt, kill in enumerate(KILLS, start=1):
        assert job.run(attempt, "exact.py", f"--kill={kill}").exit_code == EXIT_PROGRAM_FAILED
    last = job.run(len(KILLS) + 1, "exact.py")
    assert last.exit_code == EXIT_SUCCEEDED, last.log
    assert last.progress.resumed_from is not None
    assert last.progress.resumed_from.step >= 4

    assert shards(last) == shards(undisturbed)
    one, other = history(undisturbed.folder.parent), history(last.folder.parent)
    assert (one.findings, other.findings) == ([], [])
    assert (len(one.steps), len(other.steps)) == (9, 9)
    assert compare(one, other, tolerance=None) is None
    assert other.redone > 0
    assert other.redone_alike == other.redone


def launch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program under torchrun, with nothing of the operator around it."""
    config = folder.parent / "config.json"
    config.write_text(json.dumps(ACCUMULATING))
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DSJOB_")}
    env = {**ours, "PYTHONPATH": str(ROOT / "trainer_image"), "DS_ACCELERATOR": "cpu"}
    # Not --standalone: that looks for the machine's own name, and a container may have none.
    meet = ["--nnodes=1", "--master-addr=127.0.0.1", f"--master-port={free_ports(1)[0]}"]
    command = [sys.executable, "-m", "torch.distributed.run", *meet, "--nproc-per-node=2"]
    command += [str(PROGRAMS / "exact.py"), f"--folder={folder}", "--deepspeed_config", str(config)]
    return subprocess.run(
        [*command, *words], env=env, capture_output=True, text=True, timeout=300, check=False
    )


def test_under_torchrun_alone_it_is_the_same(tmp_path: Path) -> None:
    """Also with workers that read ahead, which a kill makes forget."""
    calm = launch(tmp_path / "calm")
    assert calm.returncode == 0, calm.stderr[-3000:]
    assert launch(tmp_path / "cut", "--workers=1", "--kill=1:save:4").returncode != 0
    resumed = launch(tmp_path / "cut", "--workers=1")
    assert resumed.returncode == 0, resumed.stderr[-3000:]

    one, other = history(tmp_path / "calm"), history(tmp_path / "cut")
    assert (one.findings, other.findings) == ([], [])
    assert [start.step for start in other.starts] == [0, 2]
    assert (len(other.steps), compare(one, other, tolerance=None)) == (9, None)
    assert (other.redone, other.redone_alike) == (2, 2)
    said = [
        {line for line in run.stdout.splitlines() if line.startswith('{"step"')}
        for run in (calm, resumed)
    ]
    assert said[0] == said[1] != set()
