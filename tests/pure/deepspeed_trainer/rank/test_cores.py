"""A rank's share of the cores of its pod."""

import os
import threading
from collections.abc import Iterator

import pytest

from deepspeed_trainer.board.ranks import Launch
from deepspeed_trainer.rank.cores import (
    TooFewCores,
    bind_this_process,
    find_share,
    name_threads,
)
from tests.pure.deepspeed_trainer.makers import a_contract


def a_launch(local_rank: int, ranks: int) -> Launch:
    return Launch(local_rank, ranks, 0, 1, "ip-a", 9)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.usefixtures("eight_cores")
def test_ranks_of_a_pod_share_its_cores_without_overlap() -> None:
    contract = a_contract(bind_cores=True)
    shares = [find_share(contract, a_launch(rank, 3)) for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.usefixtures("eight_cores")
def test_a_pod_with_fewer_cores_than_ranks_is_said_by_the_fields_name() -> None:
    with pytest.raises(TooFewCores, match=r"spec\.worker\.bindCores: 8 cores .* 9 ranks"):
        find_share(a_contract(bind_cores=True), a_launch(0, 9))


def test_ranks_are_not_bound_unless_the_job_says_so() -> None:
    assert find_share(a_contract(), a_launch(0, 1)) == []


def test_the_jobs_own_number_of_threads_stays() -> None:
    assert name_threads(a_contract(env={}), [4, 5]) == {"OMP_NUM_THREADS": "2"}
    assert name_threads(a_contract(env={"OMP_NUM_THREADS": "7"}), [4, 5]) == {}
    assert name_threads(a_contract(env={}), []) == {}


@pytest.fixture
def own_cores() -> Iterator[list[int]]:
    own = sorted(os.sched_getaffinity(0))
    yield own
    bind_this_process(own)


def test_threads_that_were_there_before_are_bound_too(own_cores: list[int]) -> None:
    asked, answered = threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def look() -> None:
        asked.wait()
        seen.append(os.sched_getaffinity(0))
        answered.set()

    threading.Thread(target=look, daemon=True).start()
    bind_this_process(own_cores[:1])
    asked.set()
    answered.wait()
    assert seen == [set(own_cores[:1])]
