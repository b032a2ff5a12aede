"""A command per node: an unchanged script with a launcher in it trains the job's ranks."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.contract import Cause, Entrypoint, EntrypointKind, RunContract, RunPhase
from tests.trainer.attempts import Job, Outcome
from tests.trainer.processes import lives, parent_of
from tests.trainer.raycluster import RayCluster, wait_until


def entry(*words: str, per: str = "Node") -> dict[str, Entrypoint]:
    return {"entrypoint": Entrypoint(EntrypointKind.COMMAND, words[0], words[1:], per=per)}


def run(job: Job, *words: str, attempt: int = 1, **fields: Any) -> Outcome:
    return job.run(attempt, words[0], **entry(*words), **fields)


def node_log(outcome: Outcome, node: int) -> str:
    return (outcome.folder / "logs" / f"node-{node:05d}.log").read_text()


@pytest.mark.parametrize(
    "launcher", ["deepspeed", "torchrun", "torch-module", "mpirun", "accelerate"]
)
def test_the_launcher_in_a_script_starts_the_jobs_ranks(
    cluster: RayCluster, storage: Path, launcher: str
) -> None:
    outcome = run(Job(cluster, storage), "./node.sh", launcher, "--steps=5")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.step == 5
    assert outcome.progress.checkpoint is not None
    assert outcome.progress.notice is None
    said = [outcome.said(rank) for rank in (0, 1)]
    assert [rank["RANK"] for rank in said] == ["0", "1"]
    assert {rank["rank_count"] for rank in said} == {2}
    assert said[0]["ACCELERATE_USE_DEEPSPEED"] == ("true" if launcher == "accelerate" else None)
    is_told = [word.startswith("--local_rank=0") for word in said[1]["argv"]]
    assert any(is_told) == (launcher == "deepspeed")
    for node in (0, 1):
        log = node_log(outcome, node)
        assert f"before the launcher on node {node} of 2" in log
        assert "after the launcher: 0" in log


@pytest.mark.seed("S3", "DS_ENV_FILE")
def test_ranks_get_the_variables_of_deepspeeds_own_file(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine"
    file.write_text("ACCELERATE_USE_DEEPSPEED=from the file\n")
    line = f"DS_ENV_FILE={file} ./node.sh deepspeed --steps=1"
    outcome = run(Job(cluster, storage), "sh", "-c", line)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.said(1)["ACCELERATE_USE_DEEPSPEED"] == "from the file"


def test_a_rank_that_is_killed_under_a_launcher_is_named_and_the_job_resumes(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    words = ("./node.sh", "deepspeed", "--steps=8", "--save-every=3", "--end=1:kill:4")
    outcome = run(job, *words)
    failure = outcome.progress.failure
    assert failure is not None
    assert (failure.cause, failure.rank, failure.exit_code) == (Cause.SIGNAL, 1, -9)
    assert "after the launcher: 137" in node_log(outcome, 1)
    resumed = run(job, *words, attempt=2)
    assert resumed.progress.phase is RunPhase.SUCCEEDED, resumed.log
    assert resumed.said(1)["start"] == 3


def test_a_script_that_fails_by_itself_is_told_with_its_words(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = run(Job(cluster, storage), "./node.sh", "wrong-size")
    failure = outcome.progress.failure
    assert failure is not None
    assert "asked for 4 nodes, the job has 2: change spec.nodes" in "\n".join(failure.log_tail)


@pytest.mark.parametrize("launcher", ["deepspeed", "torch-module"])
def test_a_launcher_in_every_rank_is_refused_with_the_fix(
    cluster: RayCluster, storage: Path, launcher: str
) -> None:
    outcome = Job(cluster, storage).run(1, "sh", **entry("./node.sh", launcher, per="Rank"))
    failure = outcome.progress.failure
    assert failure is not None
    assert "say entrypoint.per: Node" in "\n".join(failure.log_tail)


def test_ranks_end_with_the_supervisor_of_their_node(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    job = Job(cluster, storage)
    words = ("sh", "-c", f"torchrun --nnodes 2 plain.py x hang-1 {note}; true")
    contract: RunContract = job.contract(1, "sh", **entry(*words))
    driver = job.start(contract)
    wait_until(lambda: note.exists() and note.read_text(), "the program did not start")
    program = int(note.read_text())
    supervisor = parent_of(parent_of(parent_of(program)))
    os.kill(supervisor, signal.SIGKILL)
    job.finish(contract, driver)
    wait_until(lambda: not lives(program), "the program lives on")


@pytest.mark.seed("S3", "--bind_cores_to_rank, --bind_core_list")
def test_two_ranks_of_a_node_get_their_own_numbers_and_cores(storage: Path) -> None:
    with RayCluster(pods=("worker-a",), ranks_per_pod=2) as cluster:
        job = Job(cluster, storage, nodes=1, ranks_per_node=2)
        outcome = run(job, "./node.sh", "deepspeed-one", "--steps=2")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    said = [outcome.said(rank) for rank in (0, 1)]
    assert [rank["LOCAL_RANK"] for rank in said] == ["0", "1"]
    assert ["--local_rank=1" in rank["argv"] for rank in said] == [False, True]
    cores = len(os.sched_getaffinity(0)) // 2
    assert {rank["OMP_NUM_THREADS"] for rank in said} == {str(cores)}
