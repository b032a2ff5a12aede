"""What the board does for a rank's call grows no faster than the ranks: there may be thousands.

Counted in calls of Python functions, so that no clock is asked.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from deepspeed_trainer.board.attempt import SETTLE_S, Attempt
from deepspeed_trainer.board.beats import Beat, Phase
from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.contract import MAX_PROGRESS_BYTES
from tests.pure.deepspeed_trainer.makers import a_closed_save, a_contract, ended

ON_POD = 8
SIZES = (32, 128, 512)
BEAT = Beat(phase=Phase.FORWARD, step=9, steps=9, age_s=0.1, longest_s={Phase.FORWARD: 0.5})
Talk = Callable[[Attempt, int], object]


def hello(rank: int) -> dict[str, Any]:
    pod = f"pod-{rank // ON_POD}"
    return {"kind": "hello", "pod": pod, "pod_uid": pod, "address": "ip", "port": 9}


def all_there(ranks: int) -> Attempt:
    attempt = Attempt(a_contract(nodes=ranks // ON_POD, ranks_per_node=ON_POD), 0.0)
    for rank in range(ranks):
        attempt.take(rank, hello(rank), 0.0)
    return attempt


def at_work(ranks: int) -> Attempt:
    attempt = all_there(ranks)
    attempt.resuming.choose(Resume(1), None)
    for rank in range(ranks):
        attempt.resuming.note_prepared(rank, 1)
        attempt.take(rank, {"kind": "group", "size": ranks}, 0.0)
        attempt.take(rank, BEAT.to_fact(), 1.0)
    return attempt


def half_ended(ranks: int) -> Attempt:
    attempt = at_work(ranks)
    for rank in range(1, ranks, 2):
        attempt.note_end(rank, ended(0), 1.0)
    return attempt


def come(attempt: Attempt, rank: int) -> object:
    return attempt.take(rank, hello(rank), 0.0)


def step(attempt: Attempt, rank: int) -> object:
    attempt.note_figures(rank, {"done": 9, "begun": 9}, 2.0)
    attempt.take(rank, BEAT.to_fact(), 2.0)
    return attempt.orders(rank, 2.0)


def save(attempt: Attempt, rank: int) -> object:
    attempt.saves.note_closed(rank, a_closed_save())
    attempt.saves.note_brought(rank, 1, ())
    return attempt.orders(rank, 2.0)


def end(attempt: Attempt, rank: int) -> object:
    if rank % 2 == 0:
        attempt.note_end(rank, ended(0), 2.0)
    return attempt.orders(rank, 2.0 + 2 * SETTLE_S + rank / 256)


def ask(attempt: Attempt, _rank: int) -> object:
    return attempt.progress().to_json()


CASES: dict[str, tuple[Callable[[int], Attempt], Talk]] = {
    "they come": (all_there, come),
    "they step": (at_work, step),
    "they save": (at_work, save),
    "they end": (half_ended, end),
    "the operator asks": (at_work, ask),
}


def calls_of(act: Callable[[], object]) -> int:
    """How many Python functions are called, and generators gone on with."""
    count = 0

    def note(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("case", CASES)
def test_a_ranks_call_costs_no_more_than_one_look_at_all(case: str) -> None:
    begin, talk = CASES[case]
    costs = []
    for ranks in SIZES:
        attempt = begin(ranks)
        total = calls_of(lambda: [talk(attempt, rank) for rank in range(ranks)])  # noqa: B023
        costs.append(total / ranks)
    for (ranks, cost), (more, higher) in pairwise(zip(SIZES, costs, strict=True)):
        assert higher <= 1.5 * cost * more / ranks, costs
    # A handful of looks at all ranks, and the rest is for the rank itself.
    assert costs[-1] < 8 * SIZES[-1], costs


def test_the_progress_of_many_ranks_is_about_as_small_as_that_of_a_few() -> None:
    small, large = (len(half_ended(ranks).progress().to_json()) for ranks in (8, 512))
    assert large - small < 256
    assert large < MAX_PROGRESS_BYTES // 16
