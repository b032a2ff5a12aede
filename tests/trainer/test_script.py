"""An unmodified DeepSpeed script trains over two pods, is killed, and goes on where it was."""

from pathlib import Path

import pytest

from deepspeed_trainer.contract import (
    EXIT_PROGRAM_FAILED,
    EXIT_SUCCEEDED,
    Cause,
    Metric,
    RunPhase,
)
from tests.trainer.attempts import Job, Outcome
from tests.trainer.raycluster import PROGRAMS, RayCluster


def hashes(outcome: Outcome, event: str, step: int) -> dict[str, str]:
    """Sha256 by file of all ranks for one save or load."""
    return {
        file["path"]: file["sha256"]
        for line in outcome.of_kind(event)
        if line["step"] == step
        for file in line["files"]
    }


def damage(file: Path) -> None:
    """Flip a byte in the middle; the size stays."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def test_a_script_trains_as_under_the_launcher(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--steps=12")
    progress = outcome.progress
    assert outcome.exit_code == EXIT_SUCCEEDED, outcome.log
    assert progress.phase is RunPhase.SUCCEEDED
    assert (progress.world_size, progress.nodes) == (2, 2)
    assert (progress.step, progress.total_steps, progress.first_step) == (12, 12, 1)
    assert float(progress.loss or "nan") > 0
    assert float(progress.samples_per_second or "nan") > 0
    assert progress.metrics == (Metric("Eval/accuracy", "0.75"),)
    assert progress.notice is None
    assert progress.resumed_from is None
    assert progress.checkpoint is not None
    assert (progress.checkpoint.step, progress.checkpoint.tag) == (10, "step10")
    assert (storage / progress.checkpoint.path / "manifest.dsjob.json").exists()
    said = outcome.said(1)
    assert said["rank_count"] == 2
    assert said["cwd"] == str(PROGRAMS)
    assert said["argv"][:2] == ["--local_rank=0", "--steps=12"]
    assert said["argv"][2] == "--deepspeed_config"
    wanted = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    wanted |= {"LOCAL_SIZE": "1", "CROSS_RANK": "1", "CROSS_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    assert said | wanted == said
    assert "[rank 1] " in outcome.log


def test_a_killed_rank_is_named_and_the_next_attempt_goes_on(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    killed = job.run(1, "tiny.py", "--end=1:kill:7")
    assert killed.exit_code == EXIT_PROGRAM_FAILED
    failure = killed.progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank, failure.exit_code) == (Cause.SIGNAL, 1, -9)
    assert "SIGKILL" in failure.message

    resumed = job.run(2, "tiny.py", "--end=1:kill:7")
    assert resumed.exit_code == EXIT_SUCCEEDED, resumed.log
    source = resumed.progress.resumed_from
    assert source is not None
    assert (source.step, source.attempt) == (5, 1)
    assert resumed.progress.first_step == 6
    assert {line["step"] for line in resumed.of_kind("firstStep")} == {6}
    saved = hashes(killed, "brought", 5)
    assert sum("zero_pp_rank" in path for path in saved) == 4
    assert hashes(resumed, "prepared", 5) == saved

    fresh = job.run(3, "tiny.py", resume="Never")
    assert fresh.progress.resumed_from is None
    assert fresh.progress.first_step == 1


def test_a_program_that_does_not_load_its_checkpoint_is_not_let_begin_anew(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    job.run(1, "tiny.py", "--end=1:kill:7")
    failure = job.run(2, "tiny.py", "--never-load").progress.failure
    assert failure is not None
    assert failure.cause is Cause.RESUME_IGNORED
    assert "its 5 steps are lost" in failure.message
    told = job.run(3, "tiny.py", "--never-load", on_ignored="Continue")
    assert told.exit_code == EXIT_SUCCEEDED, told.log
    assert told.progress.first_step == 1
    assert "its 5 steps are lost" in (told.progress.notice or "")


def test_a_damaged_checkpoint_is_rejected_and_the_one_before_is_taken(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    saved = job.run(1, "tiny.py", "--steps=11", "--end=0:raise:11").progress.checkpoint
    assert saved is not None
    damage(storage / saved.path / "step10" / "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    after = job.run(2, "tiny.py")
    assert after.exit_code == EXIT_SUCCEEDED
    assert after.progress.resumed_from is not None
    assert after.progress.resumed_from.step == 5
    assert after.progress.notice is not None
    assert "zero_pp_rank_1" in after.progress.notice
    # Nobody looks at it again.
    again = job.run(3, "tiny.py")
    assert again.progress.notice is None


def test_a_save_that_all_ranks_finished_is_committed_although_a_rank_died_right_after(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--end=1:kill:5")
    assert outcome.progress.checkpoint is not None
    assert outcome.progress.checkpoint.step == 5


def test_steps_are_counted_at_the_optimizer_and_a_tag_can_be_used_again(
    cluster: RayCluster, storage: Path
) -> None:
    """engine.global_steps stays 0 in such a program, and so do its tags."""
    job = Job(cluster, storage)
    args = ("--optimizer-step", "--tag=always", "--save-every=3", "--end=0:raise:11")
    first = job.run(1, "tiny.py", *args)
    assert first.progress.step == 11
    assert first.progress.checkpoint is not None
    assert first.progress.checkpoint.step == 9
    folder = job.checkpoints(1) / "always"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    second = job.run(2, "tiny.py", *args)
    assert second.exit_code == EXIT_SUCCEEDED, second.log
    assert second.progress.first_step == 10
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert after == before, "the new attempt wrote into the checkpoint of the one before"


def test_a_rank_that_leaves_early_is_the_cause(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--end=1:leave:4")
    failure = outcome.progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.EARLY_EXIT, 1)


def test_a_program_error_brings_its_own_words(cluster: RayCluster, storage: Path) -> None:
    failure = Job(cluster, storage).run(1, "tiny.py", "--end=0:raise:2").progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.USER_ERROR, 0)
    assert "ValueError: told to fail" in failure.message
    assert any("told to fail" in line for line in failure.log_tail)


@pytest.mark.parametrize("path", ["", "/usr/lib/python3/dist-packages"])
def test_a_sitecustomize_of_the_image_still_runs(
    cluster: RayCluster, storage: Path, tmp_path: Path, path: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the image own words', flush=True)\n")
    env = {"PYTHONPATH": f"{tmp_path}:{cluster.env['PYTHONPATH']}:{path}"}
    outcome = Job(cluster, storage).run(1, "plain.py", "end", env=env)
    assert "the image own words" in outcome.rank_log(0)
