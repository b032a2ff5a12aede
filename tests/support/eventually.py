"""Wait for a fact, with a deadline and a report of what was seen instead.

The deadline is there to end a test that would never end; it is no statement about speed, so make
it long. A probe that raises AssertionError or LookupError is asked again; any other error is a
bug and is passed on at once.
"""

import time
from collections.abc import Callable
from typing import TypeVar

PAUSE_S = 0.1

T = TypeVar("T")


def eventually(probe: Callable[[], T], what: str, *, within_s: float = 60) -> T:
    """Return the first true answer of `probe`.

    Raises: AssertionError after the deadline, with the last answer or the last complaint.
    """
    end = time.monotonic() + within_s
    while True:
        try:
            answer = probe()
            seen = repr(answer)
            if answer:
                return answer
        except (AssertionError, LookupError) as complaint:
            seen = f"{type(complaint).__name__}: {complaint}"
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s:g} s: {what}; last seen: {seen[:2000]}")
        time.sleep(PAUSE_S)
