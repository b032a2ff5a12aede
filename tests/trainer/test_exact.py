"""A run that is killed again and again ends with the bits of one that never was."""

from pathlib import Path

from deepspeed_trainer.contract import EXIT_PROGRAM_FAILED, EXIT_SUCCEEDED
from deepspeed_trainer.fingerprint.proof import History, compare, join
from deepspeed_trainer.fingerprint.record import read_segments
from tests.trainer.attempts import CONFIG, Job, Outcome
from tests.trainer.raycluster import RayCluster

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
    assert last.progress.resumed_from.step >= 6

    assert shards(last) == shards(undisturbed)
    one, other = history(undisturbed.folder.parent), history(last.folder.parent)
    assert (one.findings, other.findings) == ([], [])
    assert (len(one.steps), len(other.steps)) == (9, 9)
    assert compare(one, other, tolerance=None) is None
    assert other.redone > 0
    assert other.redone_alike == other.redone
