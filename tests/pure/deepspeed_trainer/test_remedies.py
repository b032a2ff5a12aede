"""One classification of causes for both sides of the wall, and one way to wait."""

import pytest

from deepspeed_trainer.contract import REMEDIES, Cause, derive_backoff_s


def test_every_cause_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Cause)


@pytest.mark.parametrize(("waits_before", "wait_s"), [(0, 10), (1, 20), (5, 320), (6, 600)])
def test_each_wait_is_twice_the_one_before_up_to_ten_minutes(
    waits_before: int, wait_s: int
) -> None:
    assert derive_backoff_s(10, waits_before) == wait_s


def test_a_wait_is_found_however_often_there_was_one() -> None:
    assert derive_backoff_s(3600, 10**9) == 600
