"""Wait inside an event loop until something holds; the async sister of `eventually`."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 10
"""There to end a test that would never end; no statement about speed."""


async def until(holds: Callable[[], object]) -> None:
    """Return when it holds, and raise TimeoutError when it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  any state is looked at, not only events
            await asyncio.sleep(0.005)
