"""A command per node: how its ranks have ended, and what a launcher in it is given."""

from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.board.ranks import Launch
from deepspeed_trainer.contract import Entrypoint, EntrypointKind
from deepspeed_trainer.launchers.request import LaunchRequest, ProgramKind
from deepspeed_trainer.rank.node import NodeFolder, NodeOrder, RankEnding, RankStart, find_endings
from deepspeed_trainer.rank.rankenv import RANK_SITE
from deepspeed_trainer.rank.shim import rank_command, rank_environment
from tests.pure.deepspeed_trainer.makers import a_contract

KILLED = RankEnding(-9, tail=("bad",))
STOPPED = RankEnding(-15, stopped=True)
RANK = RankStart(
    3,
    1,
    {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "NODE_RANK": "1",
        "CROSS_SIZE": "2",
    },
    "/log",
)
OWN = {"DSJOB_NODE": "{}", "DSJOB_HOOK_DESCENDANTS": "1", "HOME": "/h"}
OWN |= {"DSJOB_RUN": "run-1", "DSJOB_RESTART": "2"}


def a_request(launcher: str = "deepspeed", **more: object) -> LaunchRequest:
    fields = {"kind": ProgramKind.SCRIPT, "target": "a.py", "args": ("-x",), **more}
    return LaunchRequest(launcher=launcher, **fields)  # type: ignore[arg-type]


def test_a_command_that_ended_well_ended_all_its_ranks_well() -> None:
    assert find_endings(RankEnding(0), [KILLED, STOPPED], 2) == [RankEnding(0), RankEnding(0)]


def test_a_rank_that_failed_under_a_launcher_failed_and_the_others_were_stopped() -> None:
    command = RankEnding(137, tail=("train.sh: line 3: killed",))
    assert find_endings(command, [STOPPED, KILLED], 2) == [STOPPED, KILLED]


def test_a_command_that_failed_by_itself_failed_as_the_first_rank() -> None:
    command = RankEnding(2, tail=("no such file",))
    for launched in (None, [RankEnding(0), RankEnding(0)]):
        assert find_endings(command, launched, 2) == [command, RankEnding(2, stopped=True)]


def test_an_order_survives_the_environment() -> None:
    order = NodeOrder("folder", {"a": 2}, (RANK,), 10, of_job=("A",))
    assert NodeOrder.from_json(order.to_json()) == order


def test_a_rank_gets_what_the_launcher_would_give() -> None:
    command = rank_command(a_request(local_rank_flag="--local_rank"), RANK)
    assert command[1:] == ["-u", "a.py", "--local_rank=1", "-x"]
    env = rank_environment(a_request(), RANK, OWN)
    assert (env["RANK"], env["HOME"]) == ("3", "/h")
    assert "DSJOB_NODE" not in env
    assert "DSJOB_HOOK_DESCENDANTS" not in env
    torch = rank_environment(a_request("torchrun"), RANK, OWN)
    assert (torch["GROUP_RANK"], torch["TORCHELASTIC_RUN_ID"]) == ("1", "run-1")
    assert torch["TORCHELASTIC_RESTART_COUNT"] == "2"
    program = a_request("mpirun", kind=ProgramKind.PROGRAM, env={"A": "1", "HOME": None})
    mpi = rank_environment(program, RANK, OWN)
    assert (mpi["OMPI_COMM_WORLD_LOCAL_RANK"], mpi["A"], mpi["HOME"]) == ("1", "1", "/h")
    assert mpi["DSJOB_HOOK_DESCENDANTS"] == "1"


def test_the_jobs_own_numbers_win_over_the_launchers() -> None:
    request = a_request("mpirun", kind=ProgramKind.PROGRAM, env={"RANK": "0"})
    assert rank_environment(request, RANK, OWN)["RANK"] == "3"


@pytest.mark.parametrize(
    ("own", "request_", "expected"),
    [
        ("/trainer", {}, [RANK_SITE, "/trainer"]),
        ("/trainer", {"spans_nodes": True}, [RANK_SITE, str(Path.cwd()), "/trainer"]),
        (f"/mine:{RANK_SITE}:/trainer", {}, [RANK_SITE, "/mine", "/trainer"]),
        ("/trainer", {"env": {"PYTHONPATH": "/file"}}, [RANK_SITE, "/file", "/trainer"]),
        ("", {}, [RANK_SITE]),
    ],
)
def test_the_working_directory_is_imported_from_as_deepspeed_does_it_across_nodes(
    own: str, request_: dict[str, Any], expected: list[str]
) -> None:
    env = rank_environment(a_request(**request_), RANK, {**OWN, "PYTHONPATH": own})
    assert env["PYTHONPATH"].split(":") == expected


def test_what_the_job_sets_wins_over_the_launchers_variables() -> None:
    named = {"NCCL_DEBUG": "TRACE", "DSJOB_CHECKPOINT_DIR": "/lost", "MINE": "1", "HOME": None}
    request = a_request("mpirun", kind=ProgramKind.PROGRAM, env=named)
    own = {**OWN, "NCCL_DEBUG": "INFO", "DSJOB_CHECKPOINT_DIR": "/volume"}
    env = rank_environment(request, RANK, own, of_job=("NCCL_DEBUG",))
    assert (env["NCCL_DEBUG"], env["DSJOB_CHECKPOINT_DIR"]) == ("INFO", "/volume")
    assert (env["MINE"], env["HOME"]) == ("1", "/h")


def test_a_launcher_is_told_what_the_job_sets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    entrypoint = Entrypoint(EntrypointKind.COMMAND, "./train.sh", per="Node")
    contract = a_contract(entrypoint=entrypoint, env={"NCCL_DEBUG": "INFO"}, storage=None)
    _, env = NodeFolder(contract, Launch(0, 1, 0, 2, "a", 1, (0,), ("a", "b"))).command({})
    assert NodeOrder.from_json(env["DSJOB_NODE"]).of_job == ("NCCL_DEBUG",)


def test_per_is_part_of_the_contract() -> None:
    assert Entrypoint(EntrypointKind.COMMAND, "a").per == "Rank"
    assert Entrypoint(EntrypointKind.COMMAND, "a", per="Node").to_wire()["per"] == "Node"
