"""What figures are made of: intervals that promise no more than they hold, turns that are fair."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import figures


def test_five_pairs_decide_nothing() -> None:
    assert figures.interval_of_median([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert not figures.compare([1.0] * 5, [2.0] * 5)["decided"]


def test_ten_values_leave_out_one_on_each_side() -> None:
    # 2 (1 + 10) / 2^10 = 2.1 % lie outside; with one value more it would be 10.9 %.
    assert figures.interval_of_median([float(n) for n in range(1, 11)]) == (2.0, 9.0)


@given(st.integers(6, 60))
def test_the_interval_is_the_narrowest_that_holds_95_percent(n: int) -> None:
    interval = figures.interval_of_median([float(number) for number in range(1, n + 1)])
    assert interval is not None
    left_out = int(interval[0]) - 1
    assert interval[1] == n - left_out

    def outside(count: int) -> float:
        return 2 * sum(math.comb(n, k) for k in range(count + 1)) / 2**n

    assert outside(left_out) <= 0.05 < outside(left_out + 1)


def test_a_ratio_is_decided_when_its_interval_leaves_one_out() -> None:
    ours = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    better = figures.compare(ours, [value + 1 for value in ours])
    assert better["decided"]
    assert better["less_at_every_percentile"]
    even = figures.compare(ours, ours[::-1])
    assert not even["decided"]
    assert not even["less_at_every_percentile"]
    assert even["median_ratio"] == pytest.approx(1.0, abs=0.1)


def test_every_system_is_as_often_early_as_late() -> None:
    turns = figures.rounds(("a", "b", "c"), 4)
    assert turns == [("a", "b", "c"), ("c", "b", "a")] * 2


def test_a_percentile_is_a_value_that_was_measured() -> None:
    found = figures.summarize([3.0, 1.0, 2.0])
    assert found == {"n": 3, "min": 1.0, "median": 2.0, "p90": 3.0, "max": 3.0}


QUIET, LOUD = [0.999, 1.0, 1.001] * 4, [0.98, 1.0, 1.02] * 4


@pytest.mark.parametrize(
    ("again", "ours", "verdict"),
    [
        (QUIET, [1.004] * 10, "within 1%"),
        (QUIET, [0.9] * 10, "within 1%"),
        (QUIET, [1.02] * 10, "not within 1%"),
        (QUIET, [1.0, 1.03] * 6, "undecided: the interval"),
        (LOUD, [1.0] * 10, "undecided: the rival beside itself"),
        (QUIET[:5], [1.0] * 10, "undecided: fewer"),
    ],
)
def test_a_bar_is_met_only_where_the_noise_is_below_it(
    again: list[float], ours: list[float], verdict: str
) -> None:
    assert figures.judge(again, ours, 0.01).startswith(verdict)
