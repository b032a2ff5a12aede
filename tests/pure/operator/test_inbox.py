"""The inbox: no key twice, no key in two hands, no failure forgotten too early."""

import asyncio

import pytest

from deepspeed_operator.api.job import JobKey
from deepspeed_operator.watch.inbox import FIRST_BACKOFF_S, JITTER, MAX_BACKOFF_S, Inbox

A, B = JobKey("team-a", "a"), JobKey("team-a", "b")
PATIENCE_S = 10


async def take(inbox: Inbox) -> JobKey:
    async with asyncio.timeout(PATIENCE_S), inbox.take() as key:
        return key


async def test_a_key_that_was_added_often_is_handed_out_once() -> None:
    inbox = Inbox()
    for _ in range(5):
        inbox.add(A)
    inbox.add(B)
    assert [await take(inbox), await take(inbox)] == [A, B]
    assert len(inbox) == 0


async def test_a_key_in_hand_is_not_handed_out_again() -> None:
    inbox = Inbox()
    inbox.add(A)
    async with inbox.take() as key:
        inbox.add(key)
        inbox.add(key)
        inbox.add(B)
        assert await take(inbox) == B
        assert len(inbox) == 1
    assert await take(inbox) == A
    assert len(inbox) == 0


async def test_a_key_is_laid_down_even_when_its_pass_breaks() -> None:
    inbox = Inbox()
    inbox.add(A)

    async def break_a_pass() -> None:
        async with inbox.take():
            inbox.add(A)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_a_pass()
    assert await take(inbox) == A


async def test_a_delayed_key_comes_by_itself() -> None:
    inbox = Inbox()
    inbox.add_after(A, 0.01)
    assert len(inbox) == 0
    assert await take(inbox) == A


async def test_of_two_delays_the_shorter_one_counts() -> None:
    inbox = Inbox()
    inbox.add_after(A, 0.01)
    inbox.add_after(A, 3600)
    assert await take(inbox) == A
    inbox.add_after(B, 3600)
    inbox.add_after(B, 0.01)
    assert await take(inbox) == B


async def test_a_pass_drops_the_timer_that_it_makes_needless() -> None:
    inbox = Inbox()
    inbox.add_after(A, 0.02)
    inbox.add(A)
    assert await take(inbox) == A
    await asyncio.sleep(0.1)
    assert len(inbox) == 0


async def test_backoff_doubles_up_to_its_limit_and_starts_anew_after_success() -> None:
    inbox = Inbox()
    delays = [inbox.retry(A) for _ in range(30)]
    for number, delay_s in enumerate(delays):
        least_s = min(FIRST_BACKOFF_S * 2**number, MAX_BACKOFF_S)
        assert least_s <= delay_s <= least_s * (1 + JITTER)
    inbox.succeeded(A)
    assert inbox.retry(A) <= FIRST_BACKOFF_S * (1 + JITTER)


async def test_one_key_pays_for_its_own_failures_alone() -> None:
    inbox = Inbox()
    for _ in range(9):
        inbox.retry(A)
    assert inbox.retry(B) <= FIRST_BACKOFF_S * (1 + JITTER)


async def test_a_wish_of_the_server_is_the_least_delay() -> None:
    assert Inbox().retry(A, at_least_s=30) >= 30


async def test_keys_that_failed_together_part() -> None:
    inbox = Inbox()
    delays = {inbox.retry(JobKey("team-a", str(number))) for number in range(20)}
    assert len(delays) > 10
