"""The board itself, called as Ray would call it: no cluster is needed."""

import json
from typing import Any

import pytest

from deepspeed_trainer.board import actor
from deepspeed_trainer.board.attempt import Attempt
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
