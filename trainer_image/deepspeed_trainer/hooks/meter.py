"""Figures of a rank: samples per second over the last steps, and numbers as decimal text."""

from collections import deque
from typing import Final

WINDOW: Final = 20
"""Steps that the rate is taken over: long enough to be calm, short enough to show a change."""


class Meter:
    """Samples per second over the last steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)

    def add(self, now: float, samples: int) -> None:
        """A step with so many samples ended; `now` in seconds of a monotonic clock."""
        self._steps.append((now, samples))

    @property
    def per_second(self) -> str | None:
        """Samples per second, or None before the second step."""
        if len(self._steps) < 2:
            return None
        elapsed_s = self._steps[-1][0] - self._steps[0][0]
        samples = sum(count for _, count in list(self._steps)[1:])
        return format_decimal(samples / elapsed_s) if elapsed_s > 0 else None


def format_decimal(value: float) -> str:
    """Return decimal text with six digits; also nan, inf and -inf."""
    return f"{value:.6g}"
