"""The board itself, called as Ray would call it: no cluster is needed."""

import errno
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from deepspeed_trainer.board import actor
from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.recorded import RecordedAttempt
from deepspeed_trainer.board.storage import RunStorage
from deepspeed_trainer.contract import Cause
from deepspeed_trainer.rank import starting
from tests.pure.deepspeed_trainer.board.test_storage import commit
from tests.pure.deepspeed_trainer.makers import a_contract
from tests.trainer.raycluster import free_ports

RANKS = 64


def hello(rank: int) -> dict[str, Any]:
    return {"kind": "hello", "pod": "p", "pod_uid": str(rank), "address": "ip", "port": 9}


@pytest.fixture
def board() -> actor.Board:
    return actor.Board(free_ports(1)[0], "token")


def test_an_answer_is_made_when_somebody_asks_however_many_ranks_call(
    board: actor.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    progress = Attempt.progress

    def counted(attempt: Attempt) -> Any:
        made.append(1)
        return progress(attempt)

    monkeypatch.setattr(Attempt, "progress", counted)
    contract = a_contract(nodes=RANKS, storage=None)
    board.open(contract.to_json())
    made.clear()
    for rank in range(RANKS):
        board.sync(contract.submission_id, rank, 0, [hello(rank)])
    assert made == []
    for _ in range(3):
        told = json.loads(board.answer(contract.submission_id) or "")
        assert told["worldSize"] == RANKS, "the last word too, though nobody spoke after it"
        assert told["phase"] == "Running"
    assert made == [1]
    assert board.answer("unknown") is None


def test_a_board_that_is_at_the_storage_answers_what_it_last_said(
    board: actor.Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "BUSY_S", 0.01)
    contract = a_contract(nodes=RANKS, storage=None)
    board.open(contract.to_json())
    with board._changing(contract.submission_id) as recorded:
        recorded.sync(0, 0, [hello(0)])
        told = json.loads(board.answer(contract.submission_id) or "")
        assert told["worldSize"] == 0
    told = json.loads(board.answer(contract.submission_id) or "")
    assert told["worldSize"] == 1


def test_a_call_for_a_run_that_is_forgotten_harms_no_answer(board: actor.Board) -> None:
    with pytest.raises(KeyError):
        board.fail("forgotten", "Stopped", "too late")
    assert board.answer("forgotten") is None


def a_stored_run(volume: Path, attempt: int) -> tuple[RecordedAttempt, RunStorage]:
    recorded = RecordedAttempt(a_contract(storage=str(volume), attempt=attempt))
    assert recorded._storage is not None
    return recorded, recorded._storage


def test_a_disk_without_room_rejects_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1's own disk is full: that says nothing of what was saved."""
    _, storage = a_stored_run(tmp_path, 1)
    commit(storage, tmp_path, 5)
    recorded, storage = a_stored_run(tmp_path, 2)
    for rank in (0, 1):
        orders = recorded.sync(rank, 0, [hello(rank)])
    assert orders.resume is not None
    assert orders.resume.step == 5

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(starting.resume, "prepare", full)
    monkeypatch.setattr(starting.ray.train, "get_context", Mock)
    monkeypatch.setattr(starting, "sweep_locks", lambda _: None)
    link = Mock(sync=lambda facts: recorded.sync(1, 0, facts))
    begun = starting.Starting(recorded.attempt.contract, 1, link, 0.0)
    assert begun.wait(hello(1)).must_stop
    failure = recorded.attempt.progress().failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.STORAGE, 1)
    assert "No space left" in failure.message
    assert [one.step for one in storage._journal.record.alive] == [5]


def test_damage_that_cannot_be_written_down_ends_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the same checkpoint would be offered again and again."""
    _, storage = a_stored_run(tmp_path, 1)
    commit(storage, tmp_path, 5)
    recorded, storage = a_stored_run(tmp_path, 2)
    for rank in (0, 1):
        orders = recorded.sync(rank, 0, [hello(rank)])
    assert orders.resume is not None

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the volume is gone")

    monkeypatch.setattr(storage._journal, "append", fail)
    path = orders.resume.save
    fact = {"kind": "damaged", "number": orders.resume.number, "path": path, "message": "gone"}
    recorded.sync(0, 0, [fact])
    failure = recorded.attempt.progress().failure
    assert failure is not None
    assert failure.cause is Cause.STORAGE
