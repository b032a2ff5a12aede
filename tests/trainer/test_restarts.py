"""Ranks that fail while their pods are healthy start again inside the running worker group.

Also where that ends: a lost supervisor, a cause that no restart mends, a spent budget, and a head
that is out of reach.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.contract import Cause, Entrypoint, EntrypointKind, RunPhase
from tests.trainer.attempts import Job, Outcome
from tests.trainer.processes import find_below, lives, parent_of
from tests.trainer.raycluster import RayCluster, wait_until


def steps_by_start(outcome: Outcome) -> list[tuple[int, int]]:
    """The first step of each rank in each round."""
    return [(line.get("restart", 0), line["step"]) for line in outcome.of_kind("firstStep")]


def assert_trained_to_the_end(outcome: Outcome, *, restarts: int, step: int = 12) -> None:
    progress = outcome.progress
    assert progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert (progress.restarts, progress.step, progress.attempt) == (restarts, step, 1)
    assert progress.failure is None
    assert len(outcome.of_kind("restarted")) == restarts


def test_a_killed_rank_goes_on_from_the_last_save_in_the_same_workers(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--end=1:kill:7", restarts_left=2)
    assert_trained_to_the_end(outcome, restarts=1)
    [restart] = outcome.progress.last_restarts
    assert (restart.cause, restart.rank, restart.node) == (Cause.SIGNAL, 1, "worker-b")
    assert restart.step in (6, 7), "the last word of a killed rank may be lost"
    assert sorted(steps_by_start(outcome)) == [(0, 1), (0, 1), (1, 6), (1, 6)]
    assert outcome.progress.resumed_from is not None
    assert outcome.progress.resumed_from.step == 5
    for rank in (0, 1):
        first, second = outcome.said_at_starts(rank)
        assert [first["DSJOB_RESTART"], second["DSJOB_RESTART"]] == ["0", "1"]
        assert [first["DSJOB_ATTEMPT"], second["DSJOB_ATTEMPT"]] == ["1", "1"]
        assert first["parent"] == second["parent"], "the supervisor is the same"
        assert first["MASTER_PORT"] != second["MASTER_PORT"]
        lines = outcome.rank_log(rank).splitlines()
        assert lines.count("[trainer] restart 1 begins") == 1


def test_an_error_of_the_program_is_met_by_a_restart_too(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--end=0:raise:2", restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1)
    assert outcome.progress.last_restarts[0].cause is Cause.USER_ERROR
    assert "told to fail" in outcome.progress.last_restarts[0].message


def test_a_rank_that_is_killed_while_it_saves_goes_on_from_the_save_before(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--end=1:save:10", restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1)
    assert [line["step"] for line in outcome.of_kind("committed")] == [5, 10]
    assert [line.get("restart", 0) for line in outcome.of_kind("committed")] == [0, 1]
    assert max(steps_by_start(outcome)) == (1, 6)


def test_a_save_right_before_the_kill_is_committed_before_the_next_start(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--end=1:kill:5", restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1)
    order = [line["event"] for line in outcome.events]
    assert order.index("committed") < order.index("restarted")
    assert max(steps_by_start(outcome)) == (1, 6)


def test_a_second_failure_waits_and_a_third_ends_the_attempt(
    cluster: RayCluster, storage: Path
) -> None:
    job = Job(cluster, storage)
    words = ("--steps=4", "--end=1:raise:2", "--times=3")
    outcome = job.run(1, "tiny.py", *words, restarts_left=2, backoff_s=3)
    failure = outcome.progress.failure
    assert failure is not None, outcome.log
    assert (failure.cause, failure.rank) == (Cause.USER_ERROR, 1)
    assert outcome.progress.restarts == 2
    first, second = (line["time"] for line in outcome.of_kind("restarted"))
    begun = [line["time"] for line in outcome.of_kind("firstStep")]
    assert max(begun) - second > 3, "the second restart waits"
    assert first < second


def test_two_failures_and_a_budget_for_both_end_well(cluster: RayCluster, storage: Path) -> None:
    words = ("--steps=4", "--save-every=2", "--end=0:kill:3", "--times=2")
    outcome = Job(cluster, storage).run(1, "tiny.py", *words, restarts_left=2, backoff_s=0)
    assert_trained_to_the_end(outcome, restarts=2, step=4)
    assert [each.rank for each in outcome.progress.last_restarts] == [0, 0]


def test_a_cause_that_no_restart_mends_ends_the_attempt(cluster: RayCluster, storage: Path) -> None:
    job = Job(cluster, storage, deepspeed_config=None)
    outcome = job.run(1, "plain.py", "import", restarts_left=3)
    assert outcome.progress.failure is not None
    assert outcome.progress.failure.cause is Cause.IMPORT_FAILED
    assert outcome.progress.restarts == 0


@pytest.mark.parametrize(
    ("kind", "target"),
    [(EntrypointKind.MODULE, "pkg.train"), (EntrypointKind.COMMAND, "./train.sh")],
)
def test_a_module_and_a_command_are_started_again(
    cluster: RayCluster, storage: Path, kind: EntrypointKind, target: str
) -> None:
    words = ("--steps=4", "--save-every=2", "--end=1:kill:3")
    entrypoint = Entrypoint(kind, target, words)
    outcome = Job(cluster, storage).run(1, target, entrypoint=entrypoint, restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1, step=4)
    assert [start["start"] for start in outcome.said_at_starts(1)] == [0, 2]


def test_a_command_per_node_is_started_again(cluster: RayCluster, storage: Path) -> None:
    words = ("torchrun", "--steps=8", "--save-every=3", "--end=1:kill:4")
    entrypoint = Entrypoint(EntrypointKind.COMMAND, "./node.sh", words, per="Node")
    job = Job(cluster, storage)
    outcome = job.run(1, "./node.sh", entrypoint=entrypoint, restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1, step=8)
    assert outcome.progress.last_restarts[0].rank == 1
    for node in (0, 1):
        log = (outcome.folder / "logs" / f"node-{node:05d}.log").read_text()
        assert log.count("before the launcher") == 2
        assert "[trainer] restart 1 begins" in log
        assert "[trainer] restart 1 begins" in outcome.rank_log(node)
    assert outcome.said_at_starts(1)[1]["start"] == 3


def test_a_function_is_started_again_in_new_workers(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "loops:fail_on_rank_1_at_first", restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1, step=0)
    assert outcome.progress.last_restarts[0].cause is Cause.USER_ERROR
    assert {m.name: m.value for m in outcome.progress.metrics} == {"restart": "1"}


def test_a_driver_program_is_started_again_and_gets_its_checkpoint(
    cluster: RayCluster, storage: Path
) -> None:
    entrypoint = Entrypoint(EntrypointKind.DRIVER, "own_trainer.py", ("kill",))
    job = Job(cluster, storage)
    outcome = job.run(1, "own_trainer.py", entrypoint=entrypoint, restarts_left=1)
    assert_trained_to_the_end(outcome, restarts=1)
    assert outcome.progress.last_restarts[0].rank == 1
    assert outcome.progress.resumed_from is not None
    assert outcome.progress.first_step == outcome.progress.resumed_from.step + 1
    assert "[trainer] restart 1 begins" in (outcome.folder / "logs" / "driver.log").read_text()


def start_hanging(job: Job, program: str, note: Path, **fields: Any) -> tuple[Any, Any, int]:
    """Start ranks that never end; the contract, the driver, and rank 0's process."""
    is_function = ":" in program
    kind = EntrypointKind.FUNCTION if is_function else EntrypointKind.SCRIPT
    config = {"config": {"note": str(note)}} if is_function else {"args": ("hang-1", str(note))}
    fields |= {"entrypoint": Entrypoint(kind, program, **config), "deepspeed_config": None}
    contract = job.contract(1, program, **fields)
    driver = job.start(contract)
    wait_until(lambda: note.exists() and note.read_text(), "the program did not start")
    return contract, driver, int(note.read_text())


def test_a_lost_supervisor_ends_the_attempt_whatever_is_left_of_the_budget(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    job = Job(cluster, storage)
    contract, driver, rank = start_hanging(job, "plain.py", tmp_path / "pid", restarts_left=3)
    os.kill(parent_of(rank), signal.SIGKILL)
    outcome = job.finish(contract, driver)
    assert outcome.progress.failure is not None, outcome.log
    assert outcome.progress.failure.cause is Cause.POD_LOST
    assert outcome.progress.restarts == 0


@contextmanager
def silent_head(cluster: RayCluster) -> Iterator[None]:
    """The board answers nobody."""
    board = find_below(cluster.head_pid, "ray::Board")
    os.kill(board, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(board, signal.SIGCONT)


@pytest.mark.parametrize("program", ["plain.py", "loops:hang"])
def test_a_rank_that_hears_nothing_from_the_head_dies(
    cluster: RayCluster, storage: Path, tmp_path: Path, program: str
) -> None:
    job = Job(cluster, storage)
    contract, driver, rank = start_hanging(job, program, tmp_path / "pid", deadman_s=3)
    with silent_head(cluster):
        wait_until(lambda: not lives(rank), "the rank lives on", timeout_s=60)
    outcome = job.finish(contract, driver)
    assert outcome.progress.phase is RunPhase.FAILED


def test_a_rank_without_its_head_holds_its_pod_no_longer(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    job = Job(cluster, storage)
    contract, driver, rank = start_hanging(job, "plain.py", tmp_path / "pid")
    try:
        with silent_head(cluster):
            cluster.tell("worker-a", contract.deadman_s - 5)  # raises when it takes all of this
            assert lives(rank)
        outcome = job.finish(contract, driver)
    finally:
        cluster.keep_pods()
    assert outcome.progress.failure is not None
    assert outcome.progress.failure.cause is Cause.PREEMPTED


@pytest.mark.parametrize("program", ["plain.py", "loops:hang"])
def test_a_rank_whose_board_forgot_the_run_dies(
    cluster: RayCluster, storage: Path, tmp_path: Path, program: str
) -> None:
    """A board that was killed comes back empty: nobody would hear of this rank again."""
    job = Job(cluster, storage)
    contract, driver, rank = start_hanging(job, program, tmp_path / "pid")
    os.kill(find_below(cluster.head_pid, "ray::Board"), signal.SIGKILL)
    wait_until(lambda: not lives(rank), "the rank lives on", timeout_s=60)
    driver.kill()
    driver.communicate()
    assert contract.deadman_s == 60, "it did not wait for that"


def test_ranks_are_bound_to_their_share_of_the_cores(storage: Path, tmp_path: Path) -> None:
    """Every kind of entrypoint, with two ranks on one node."""
    own = sorted(os.sched_getaffinity(0))
    half = len(own) // 2
    shares = [own[:half], own[half : 2 * half]]
    told = [f"{share} {half}" for share in shares]
    steps = "--steps=1"
    node = Entrypoint(EntrypointKind.COMMAND, "./node.sh", ("torchrun", steps), per="Node")
    scripts = (
        Entrypoint(EntrypointKind.SCRIPT, "tiny.py", (steps,)),
        Entrypoint(EntrypointKind.MODULE, "pkg.train", (steps,)),
        Entrypoint(EntrypointKind.COMMAND, "./train.sh", (steps,)),
        node,
    )
    note = tmp_path / "cores"
    function = Entrypoint(EntrypointKind.FUNCTION, "loops:tell_cores", config={"note": str(note)})
    driver = Entrypoint(EntrypointKind.DRIVER, "own_trainer.py")
    with RayCluster(pods=("worker-a",), ranks_per_pod=2) as cluster:
        job = Job(cluster, storage, nodes=1, ranks_per_node=2, bind_cores=True)
        for attempt, entrypoint in enumerate(scripts, start=1):
            outcome = job.run(attempt, "-", entrypoint=entrypoint)
            said = [outcome.said(rank) for rank in (0, 1)]
            assert [rank["cores"] for rank in said] == shares, outcome.log
            assert {rank["OMP_NUM_THREADS"] for rank in said} == {str(half)}
        job.run(5, "-", entrypoint=function)
        assert [Path(f"{note}-{rank}").read_text() for rank in (0, 1)] == told
        job.run(6, "-", entrypoint=driver)
        assert [(job.checkpoints(6) / f"cores-{rank}").read_text() for rank in (0, 1)] == told
