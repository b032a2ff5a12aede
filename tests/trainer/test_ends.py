"""How an attempt can end otherwise: each cause once, with its exit code, and what is cleaned up."""

import os
import signal
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.contract import (
    DRIVER_COMMAND,
    EXIT_CONTRACT_INVALID,
    EXIT_NO_RANKS,
    EXIT_PROGRAM_FAILED,
    EXIT_STOPPED,
    EXIT_WRONG_HEAD,
    Cause,
    RunContract,
    RunPhase,
)
from tests.trainer.attempts import Job
from tests.trainer.processes import lives, parent_of
from tests.trainer.raycluster import PROGRAMS, RayCluster, wait_until

ENDS: dict[str, tuple[list[str], dict[str, Any], Cause, int]] = {
    "an error of one rank": (["plain.py", "raise-1"], {}, Cause.USER_ERROR, EXIT_PROGRAM_FAILED),
    "a segmentation fault": (["plain.py", "abort-1"], {}, Cause.SIGNAL, EXIT_PROGRAM_FAILED),
    "a missing module": (["plain.py", "import"], {}, Cause.IMPORT_FAILED, EXIT_PROGRAM_FAILED),
    "a missing script": (["absent.py", "x"], {}, Cause.IMPORT_FAILED, EXIT_PROGRAM_FAILED),
    "no process group": (["plain.py", "end"], {}, Cause.NO_PROCESS_GROUP, EXIT_PROGRAM_FAILED),
    "a group of one": (["group.py", "alone"], {}, Cause.WRONG_WORLD_SIZE, EXIT_PROGRAM_FAILED),
    "ranks on too many pods": (
        ["plain.py", "end"],
        {"nodes": 1, "ranks_per_node": 2},
        Cause.PLACEMENT,
        EXIT_NO_RANKS,
    ),
    "pods that never come": (
        ["plain.py", "end"],
        {"nodes": 3, "ranks_timeout_s": 1},
        Cause.RANKS_MISSING,
        EXIT_NO_RANKS,
    ),
    "another head": (
        ["plain.py", "end"],
        {"head_pod_uid": "another"},
        Cause.WRONG_HEAD,
        EXIT_WRONG_HEAD,
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_cause_is_named(cluster: RayCluster, storage: Path, case: str) -> None:
    program, fields, cause, exit_code = ENDS[case]
    outcome = Job(cluster, storage, deepspeed_config=None).run(1, *program, **fields)
    failure = outcome.progress.failure
    assert failure is not None, outcome.log
    assert failure.cause is cause, failure.message
    assert outcome.exit_code == exit_code
    assert outcome.progress.phase is RunPhase.FAILED


def test_a_group_of_all_ranks_is_enough(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "group.py", "together", deepspeed_config=None)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log


def test_missing_ranks_are_counted(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "plain.py", "end", nodes=5, ranks_timeout_s=1)
    assert outcome.progress.failure is not None
    assert "2 of 5 ranks" in outcome.progress.failure.message


def test_an_invalid_contract_is_refused_before_anything_starts(cluster: RayCluster) -> None:
    done = subprocess.run(
        DRIVER_COMMAND.split(),
        env={**cluster.env, "DSJOB_CONTRACT": '{"version": 1}'},
        cwd=PROGRAMS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_CONTRACT_INVALID
    assert "contract.job is missing" in done.stderr


def test_a_rank_dies_with_its_supervisor(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    """SIGKILL of Ray's worker leaves no program behind, and the pod is what is named."""
    job = Job(cluster, storage)
    contract, driver, rank_pid = hanging(job, "hang-1", tmp_path)
    os.kill(parent_of(rank_pid), signal.SIGKILL)
    outcome = job.finish(contract, driver)
    assert not lives(rank_pid)
    assert outcome.progress.failure is not None
    assert outcome.progress.failure.cause is Cause.POD_LOST
    assert outcome.progress.failure.rank == 0


def test_a_stopped_driver_stops_its_ranks_in_order(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    job = Job(cluster, storage)
    contract, driver, rank_pid = hanging(job, "hang", tmp_path)
    driver.send_signal(signal.SIGTERM)
    outcome = job.finish(contract, driver)
    assert outcome.exit_code == EXIT_STOPPED
    assert [line["exitCode"] for line in outcome.of_kind("ended")] == [-15, -15]
    assert not lives(rank_pid)


def test_the_board_outlives_a_killed_driver_and_the_ranks_do_not(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    job = Job(cluster, storage)
    contract, driver, rank_pid = hanging(job, "hang", tmp_path)
    driver.kill()
    outcome = job.finish(contract, driver)
    # A supervisor may live long enough to tell that its rank is gone; nobody tells a verdict.
    assert outcome.progress.phase in (RunPhase.RUNNING, RunPhase.FINISHING)
    assert outcome.progress.failure is None
    wait_until(lambda: not lives(rank_pid), "the rank lives on")


def test_the_endpoint_wants_the_token_and_a_known_run(cluster: RayCluster, storage: Path) -> None:
    job = Job(cluster, storage)
    contract = job.contract(1, "plain.py", "end", head_pod_uid="another")
    job.finish(contract, job.start(contract))
    for submission_id, token, status in (
        (contract.submission_id, "wrong", 401),
        ("unknown", "wrong", 401),
        ("unknown", cluster.token, 404),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            cluster.progress_of(submission_id, token)
        assert refused.value.code == status


def test_a_ray_job_ends_as_its_driver_does(cluster: RayCluster, storage: Path) -> None:
    """The operator's way: the Jobs API, the contract in the job's environment."""
    job = Job(cluster, storage)
    contract = job.contract(1, "plain.py", "raise-1", deepspeed_config=None)
    submission = {
        "submission_id": contract.submission_id,
        "entrypoint": DRIVER_COMMAND,
        "runtime_env": {"env_vars": {"DSJOB_CONTRACT": contract.to_json()}},
    }
    cluster.ask("/api/jobs/", submission)
    path = f"/api/jobs/{contract.submission_id}"
    wait_until(lambda: cluster.ask(path)["status"] in ("SUCCEEDED", "FAILED"), "no end")
    state, logs = cluster.ask(path), cluster.ask(f"{path}/logs")["logs"]
    assert state["status"] == "FAILED"
    assert state["driver_exit_code"] == EXIT_PROGRAM_FAILED, logs
    assert cluster.progress_of(contract.submission_id)["failure"]["cause"] == "UserError"
    assert "[rank 1] RuntimeError: told to fail" in logs


def hanging(job: Job, how: str, folder: Path) -> tuple[RunContract, subprocess.Popen[str], int]:
    """Start an attempt that does not end; its contract, its driver, and a rank's process id."""
    note = folder / "pid"
    contract = job.contract(1, "plain.py", how, str(note), deepspeed_config=None)
    driver = job.start(contract)
    wait_until(lambda: note.exists() and note.read_text(), "the program did not start")
    return contract, driver, int(note.read_text())
