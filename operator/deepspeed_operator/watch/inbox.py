"""The inbox: keys of jobs that somebody should look at, each at most once.

A key in hand is not handed out again before it is laid down, so one worker at a time looks at a
job; what arrives meanwhile makes it due once more.  Delays and backoff live in memory only: after
a restart every key is due at once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from deepspeed_operator.api.job import JobKey

FIRST_BACKOFF_S: Final = 0.2
MAX_BACKOFF_S: Final = 120.0
JITTER: Final = 0.2
"""Share by which a delay may be longer, so that keys that failed together part."""


class Inbox:
    """A queue of keys without duplicates.  Used from one event loop."""

    def __init__(self) -> None:
        self._due: asyncio.Queue[JobKey] = asyncio.Queue()
        self._queued: set[JobKey] = set()
        self._in_hand: set[JobKey] = set()
        self._due_again: set[JobKey] = set()
        self._timers: dict[JobKey, asyncio.TimerHandle] = {}
        self._failures: Counter[JobKey] = Counter()

    def __len__(self) -> int:
        return len(self._queued) + len(self._due_again)

    def add(self, key: JobKey) -> None:
        """Make a key due now."""
        if key in self._in_hand:
            self._due_again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._due.put_nowait(key)

    def add_after(self, key: JobKey, delay_s: float) -> None:
        """Make a key due after a delay, or earlier if that was asked for before."""
        loop = asyncio.get_running_loop()
        when = loop.time() + delay_s
        pending = self._timers.get(key)
        if pending is not None:
            if pending.when() <= when:
                return
            pending.cancel()
        self._timers[key] = loop.call_at(when, self._ring, key)

    def retry(self, key: JobKey, *, at_least_s: float = 0) -> float:
        """Make a key due after its backoff, which doubles with each failure.  Return the delay."""
        exponent = min(self._failures[key], 20)
        self._failures[key] += 1
        backoff_s = min(FIRST_BACKOFF_S * 2**exponent, MAX_BACKOFF_S)
        delay_s: float = max(backoff_s, at_least_s) * random.uniform(1, 1 + JITTER)  # noqa: S311
        self.add_after(key, delay_s)
        return delay_s

    def succeeded(self, key: JobKey) -> None:
        """Start the next backoff of a key from the beginning."""
        self._failures.pop(key, None)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[JobKey]:
        """Wait for a due key and hold it in hand; its timer is dropped, as a pass sets it anew."""
        key = await self._due.get()
        self._queued.discard(key)
        self._in_hand.add(key)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        try:
            yield key
        finally:
            self._in_hand.discard(key)
            if key in self._due_again:
                self._due_again.discard(key)
                self.add(key)

    def _ring(self, key: JobKey) -> None:
        self._timers.pop(key, None)
        self.add(key)
