"""A pod that is slow by itself is named, and even runs raise no alarm; on a simulated clock."""

import random
from collections.abc import Callable

import pytest

from deepspeed_trainer.board.straggler import Count, Slow, StragglerWatch

RANKS_PER_POD = 2
Own = Callable[[random.Random, int, int], float]


def usual(draw: random.Random, _rank: int, step: int) -> float:
    """Own seconds of a step: noise, now and then a hiccup, and every 50th a slow one for all."""
    hiccup = 4.0 if draw.random() < 0.01 else 1.0
    return draw.gauss(0.2, 0.02) * hiccup + (1.0 if step % 50 == 0 else 0.0)


def throttled(draw: random.Random, rank: int, step: int) -> float:
    """The same with the last pod at half speed."""
    return usual(draw, rank, step) * (2.0 if rank // RANKS_PER_POD == 3 else 1.0)


def train(seed: int, own: Own, *, pods: int = 4, steps: int = 600) -> list[Slow | None]:
    """Run a job and return what was named after each step."""
    draw, now = random.Random(seed), 0.0  # noqa: S311  no secret
    places = {rank: f"pod-{rank // RANKS_PER_POD}" for rank in range(pods * RANKS_PER_POD)}
    watch = StragglerWatch(len(places))
    sums = dict.fromkeys(places, 0.0)
    named = []
    for step in range(1, steps + 1):
        took = {rank: own(draw, rank, step) for rank in places}
        now += max(took.values()) + 0.05
        for rank, own_s in took.items():
            sums[rank] += own_s
            watch.note(rank, Count(step, sums[rank]), now, places)
        named.append(watch.slow)
    return named


@pytest.mark.parametrize("seed", range(10))
def test_a_pod_at_half_speed_is_named(seed: int) -> None:
    named = train(seed, throttled)
    assert {slow.pod for slow in named if slow} == {"pod-3"}
    assert named[-1] is not None
    assert named[-1].ranks == (6, 7)


@pytest.mark.parametrize("seed", range(10))
def test_an_even_run_raises_no_alarm(seed: int) -> None:
    assert not any(train(seed, usual))


@pytest.mark.parametrize("seed", range(10))
def test_one_of_two_pods_is_named(seed: int) -> None:
    def second(draw: random.Random, rank: int, step: int) -> float:
        return usual(draw, rank, step) * (2.0 if rank // RANKS_PER_POD == 1 else 1.0)

    assert {slow.pod for slow in train(seed, second, pods=2) if slow} == {"pod-1"}


def test_a_pod_that_is_slow_for_a_moment_is_not_named() -> None:
    def moment(draw: random.Random, rank: int, step: int) -> float:
        return usual(draw, rank, step) * (3.0 if rank == 0 and 100 <= step < 112 else 1.0)

    assert not any(train(1, moment))


def test_a_pod_that_is_well_again_is_let_go() -> None:
    def early(draw: random.Random, rank: int, step: int) -> float:
        return throttled(draw, rank, step) if step < 300 else usual(draw, rank, step)

    named = train(1, early)
    assert named[299] is not None
    assert named[-1] is None


def test_steps_that_take_no_time_are_not_compared() -> None:
    def tiny(_draw: random.Random, rank: int, _step: int) -> float:
        return 0.0008 if rank == 0 else 0.0001

    assert not any(train(1, tiny))


def test_a_job_in_one_pod_has_nobody_to_compare_with() -> None:
    assert not any(train(1, throttled, pods=1))


def test_ranks_that_start_anew_are_compared_anew() -> None:
    watch = StragglerWatch(2)
    pods = {0: "a", 1: "b"}
    for step in range(1, 100):
        watch.note(0, Count(step, 0.2 * step), step, pods)
        watch.note(1, Count(step, 0.9 * step), step, pods)
    assert watch.slow is not None
    assert watch.slow.sentence.startswith(
        "pod b (rank 1) is slow by itself: its own part of a step takes 0.9 s, that of the others"
        " 0.2 s"
    )
    watch.restart()
    assert watch.slow is None
    watch.note(0, Count(1, 0.2), 200.0, pods)
    watch.note(1, Count(1, 0.9), 200.0, pods)
    assert watch.slow is None
