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


def test_an_answer_is_made_now_and_then_however_many_ranks_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    now = 1000.0
    progress = Attempt.progress

    def counted(attempt: Attempt) -> Any:
        made.append(1)
        return progress(attempt)

    monkeypatch.setattr(Attempt, "progress", counted)
    monkeypatch.setattr(actor, "monotonic", lambda: now)
    board = actor.Board(free_ports(1)[0], "token")
    contract = a_contract(nodes=RANKS, storage=None)
    board.open(contract.to_json())
    made.clear()
    for rank in range(RANKS):
        now += 1 / RANKS
        board.sync(contract.submission_id, rank, 0, [hello(rank)])
    assert 0 < len(made) <= 1 / actor.PUBLISH_EVERY_S + 1
    now += actor.PUBLISH_EVERY_S
    board.sync(contract.submission_id, 1, 0, [])
    told = json.loads(board._answers[contract.submission_id])
    assert told["worldSize"] == RANKS, "what was told meanwhile is there with the next call"
