"""`dsjob verify`: records on a job's storage or in a folder, and how the command ends."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deepspeed_operator.cli import verify
from deepspeed_operator.cli.ends import NotThere, WrongUse
from deepspeed_operator.cli.main import main
from deepspeed_trainer.fingerprint.record import Segment
from tests.pure.deepspeed_trainer.fingerprint.runs import ORDER, Attempt, record
from tests.pure.operator.test_cli_logs import RUN, Machine, a_job, an_attempt

KILLED = [Attempt(0, 6), Attempt(4, 8)]


def write(run: Path, segments: Sequence[Segment]) -> None:
    for each in segments:
        folder = run / f"attempt-{each.start.attempt}" / "fingerprint"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [line.to_line() + "\n" for line in (each.start, *each.steps)]
        with (folder / f"rank-{each.start.rank:05d}.jsonl").open("a") as file:
            file.write("".join(lines))


def invoke(*words: Any) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["verify", *map(str, words)])
    return result.exit_code, result.output


def test_a_run_in_a_folder_is_proven(tmp_path: Path) -> None:
    write(tmp_path, record(KILLED))
    code, said = invoke("--path", tmp_path)
    assert code == 0, said
    assert f"{tmp_path}: 8 steps, 64 samples, 2 starts, 2 ranks" in said
    assert "no sample was skipped or repeated" in said
    assert "2 steps done again, all with the same bits" in said


def test_records_that_only_checkpoints_hold_are_read(tmp_path: Path) -> None:
    for each in record(KILLED):
        tag = tmp_path / f"attempt-{each.start.attempt}" / "checkpoints" / "step"
        tag.mkdir(parents=True, exist_ok=True)
        lines = [line.to_line() for line in (each.start, *each.steps)]
        file = tag / f"loop_rng_state_{each.start.rank:05d}.json"
        file.write_text(json.dumps({"record": lines}))
    code, said = invoke("--path", tmp_path)
    assert code == 0, said
    assert "8 steps, 64 samples, 2 starts" in said


def test_records_of_committed_checkpoints_belong_to_the_same_run(tmp_path: Path) -> None:
    segments = record(KILLED)
    write(tmp_path, segments)
    kept = tmp_path / "checkpoints" / "00000004-step4" / "step4"
    kept.mkdir(parents=True)
    lines = [line.to_line() for line in (segments[0].start, *segments[0].steps[:4])]
    (kept / "loop_rng_state_00000.json").write_text(json.dumps({"record": lines}))
    code, said = invoke("--path", tmp_path)
    assert code == 0, said
    assert "8 steps, 64 samples, 2 starts" in said


def test_a_lost_record_is_no_proof(tmp_path: Path) -> None:
    write(tmp_path, record(KILLED)[2:])
    code, said = invoke("--path", tmp_path)
    assert code == 1
    assert "attempt 2 continues after step 4, and there is a record up to step 0 alone" in said


def test_two_runs_are_compared(tmp_path: Path) -> None:
    write(tmp_path / "a", record(KILLED))
    write(tmp_path / "b", record([Attempt(0, 8)]))
    code, said = invoke("--path", tmp_path / "a", "--against-path", tmp_path / "b")
    assert code == 0, said
    assert "the same samples in the first 8 steps, with the same bits" in said


def test_a_difference_ends_with_1(tmp_path: Path) -> None:
    write(tmp_path / "a", record(KILLED))
    other = record([Attempt(0, 8)], replace(ORDER, seed=4))
    write(tmp_path / "b", other)
    code, said = invoke("--path", tmp_path / "a", "--against-path", tmp_path / "b")
    assert code == 1
    assert "step 1 is the first that differs" in said


def test_records_of_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "run-1", record(KILLED))
    write(tmp_path / "run-2", record(KILLED))
    with pytest.raises(WrongUse, match="several runs"):
        verify.read_folder(tmp_path)
    write(tmp_path / "run-3", record(KILLED))
    assert len(verify.read_folder(tmp_path / "run-3")) == 4


def test_a_folder_without_records_says_what_makes_them(tmp_path: Path) -> None:
    code, said = invoke("--path", tmp_path)
    assert code == 1
    assert "deepspeed_trainer.loop.Loop" in said


@pytest.mark.parametrize("words", [[], ["bert", "--path", "."]])
def test_one_of_name_and_folder_is_asked_for(words: list[str]) -> None:
    code, said = invoke(*words)
    assert code == 2
    assert "one of the two" in said


def test_a_jobs_records_are_read_through_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepspeed_operator.cli.podfiles.MOST_BYTES", 900)
    write(tmp_path / "mnt/dsjob" / RUN, record(KILLED))
    machine = Machine(tmp_path, a_job(an_attempt(1, "Failed"), an_attempt(2), finished=True))
    machine.heads = ["bert-2"]
    history = verify.understand(verify.read_job(machine, "bert"))
    assert history.findings == []
    assert len(history.steps) == 8


def test_without_a_head_it_is_said_where_the_records_are(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_job(an_attempt(1, "Failed"), finished=True))
    machine.heads = []
    with pytest.raises(NotThere, match=f"claim runs in {RUN}.*--path"):
        verify.read_job(machine, "bert")


def test_without_storage_there_are_no_records(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=r"spec\.storage"):
        verify.read_job(Machine(tmp_path, a_job(an_attempt(), stored=False)), "bert")


def test_of_a_bucket_it_is_said_what_to_copy(tmp_path: Path) -> None:
    job = a_job(an_attempt())
    job["spec"]["storage"] = {"uri": "s3://runs/"}
    with pytest.raises(NotThere, match=f"copy s3://runs/{RUN} and give it with --path"):
        verify.read_job(Machine(tmp_path, job), "bert")


def test_a_record_that_is_not_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, record(KILLED))
    file = tmp_path / "attempt-1/fingerprint/rank-00001.jsonl"
    file.write_text(file.read_text().replace('"rank": 1', '"rank": 7'))
    code, said = invoke("--path", tmp_path)
    assert code == 2
    assert "rank-00001.jsonl:1.rank must be a whole number from 0 to 1" in said


def test_a_part_of_a_checkpoint_that_is_not_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, record(KILLED))
    tag = tmp_path / "attempt-1" / "checkpoints" / "step2"
    tag.mkdir(parents=True)
    (tag / "loop_rng_state_00000.json").write_text("{}")
    code, said = invoke("--path", tmp_path)
    assert code == 2
    assert "loop_rng_state_00000.json.record is missing" in said
