"""Ranks that hang for real: who is named, what is kept, and what is let live."""

import re
from pathlib import Path

import pytest

from deepspeed_trainer.contract import (
    EXIT_PROGRAM_FAILED,
    Cause,
    Entrypoint,
    EntrypointKind,
    Failure,
    HangPolicy,
    RunPhase,
)
from tests.trainer.attempts import Job, Outcome
from tests.trainer.raycluster import PROGRAMS, RayCluster

QUICK = HangPolicy(min_s=3, factor=2, start_deadline_s=60)
DUMPS = ("1-first", "1-second")


def line_of(text: str) -> str:
    """Where a text stands in the program, as a message names it."""
    lines = (PROGRAMS / "hang.py").read_text().splitlines()
    return f"hang.py:{next(n for n, line in enumerate(lines, start=1) if text in line)}"


def hang_of(outcome: Outcome) -> Failure:
    failure = outcome.progress.failure
    assert failure is not None, outcome.log
    assert failure.cause is Cause.HANG, failure.message
    assert outcome.exit_code == EXIT_PROGRAM_FAILED
    return failure


def stacks(outcome: Outcome, dump: str, rank: int) -> str:
    return (outcome.folder / "stacks" / dump / f"rank-{rank:05d}.txt").read_text()


def test_a_rank_that_sleeps_for_ever_is_named_and_all_stacks_are_kept(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = Job(cluster, storage, hang=QUICK).run(1, "hang.py", "--odd=1:sleep:6")
    failure = hang_of(outcome)
    assert failure.rank == 1
    assert failure.node in {"worker-a", "worker-b"}
    place = line_of("time.sleep(600)")
    assert failure.message.startswith(
        f"rank 1 is outside the engine after step 6 ({place}), rank 0 waits in "
    ), failure.message
    # Where rank 0 meets rank 1 is DeepSpeed's business.
    assert re.search(r"in (forward|backward) of step 7; no rank has moved for", failure.message)
    folder = outcome.folder.relative_to(storage)
    assert f"stacks of all ranks: {folder}/stacks on the job's storage" in failure.message
    for dump in DUMPS:
        assert "in look_at_data_for_ever" in stacks(outcome, dump, 1)
        assert "in train" in stacks(outcome, dump, 0)
        assert "State:\tS (sleeping)" in stacks(outcome, dump, 1)
    assert outcome.of_kind("ended"), "the ranks were not ended"


def test_a_rank_in_a_collective_that_the_others_do_not_enter_is_named(
    cluster: RayCluster, storage: Path
) -> None:
    failure = hang_of(Job(cluster, storage, hang=QUICK).run(1, "hang.py", "--odd=1:barrier:6"))
    assert failure.rank == 1
    assert "waiting in barrier, rank 0 waits in" in failure.message


def test_a_rank_that_stays_stopped_is_named_and_ended(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage, hang=QUICK).run(1, "hang.py", "--odd=1:stop:6")
    failure = hang_of(outcome)
    assert failure.rank == 1
    assert "stopped by a signal" in failure.message
    assert "State:\tT (stopped)" in stacks(outcome, "1-second", 1)
    assert {line["exitCode"] for line in outcome.of_kind("ended")} <= {-15, -9}


def test_a_rank_that_is_stopped_for_a_while_is_let_live(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage, hang=QUICK).run(1, "hang.py", "--odd=1:short:6")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.progress.failure
    assert stacks(outcome, "1-first", 0), "it was not long enough to be looked at"


def test_a_watchdog_that_is_off_leaves_the_rank_to_others(
    cluster: RayCluster, storage: Path
) -> None:
    off = HangPolicy(enabled=False, min_s=1, factor=2, start_deadline_s=1)
    outcome = Job(cluster, storage, hang=off).run(1, "hang.py", "--odd=1:short:6")
    assert outcome.progress.phase is RunPhase.SUCCEEDED
    assert not (outcome.folder / "stacks").exists()


def test_a_hang_inside_rays_worker_is_found(cluster: RayCluster, storage: Path) -> None:
    entrypoint = Entrypoint("function", "hang:as_function", config={"odd": "1:sleep:6"})
    outcome = Job(cluster, storage, hang=QUICK).run(1, "hang:as_function", entrypoint=entrypoint)
    failure = hang_of(outcome)
    assert failure.rank == 1
    assert "rank 0 waits in" in failure.message
    assert "in train" in stacks(outcome, "1-second", 1)


ODD = "--odd=1:sleep:6"
LAUNCH = 'torchrun --nnodes=$NNODES --nproc_per_node=$NPROC_PER_NODE --node_rank=$NODE_RANK "$@"'


@pytest.mark.parametrize(
    "entrypoint",
    [
        pytest.param(Entrypoint(EntrypointKind.MODULE, "hang", (ODD,)), id="module"),
        pytest.param(
            Entrypoint(EntrypointKind.COMMAND, "sh", ("-c", f"python3 hang.py {ODD}; exit $?")),
            id="command",
        ),
        pytest.param(
            Entrypoint(
                EntrypointKind.COMMAND, "sh", ("-c", LAUNCH, "sh", "hang.py", ODD), per="Node"
            ),
            id="node",
        ),
        pytest.param(Entrypoint(EntrypointKind.DRIVER, "own_trainer.py", ("hang",)), id="driver"),
    ],
)
def test_a_hang_is_found_whatever_started_the_ranks(
    cluster: RayCluster, storage: Path, entrypoint: Entrypoint
) -> None:
    outcome = Job(cluster, storage, hang=QUICK).run(1, entrypoint.target, entrypoint=entrypoint)
    failure = hang_of(outcome)
    assert failure.rank == 1
    assert failure.message.startswith("rank 1 is outside the engine after step")
    program = "own_trainer.py" if entrypoint.kind is EntrypointKind.DRIVER else "hang.py"
    assert f'{program}", line' in stacks(outcome, "1-second", 1)
