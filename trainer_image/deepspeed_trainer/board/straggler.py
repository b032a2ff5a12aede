"""Which pod is slow by itself, from the own time of its ranks. Pure.

Own time is what a rank's steps take without waiting for other ranks in collectives and without
saves, loads and eval.  In a job of equal ranks it is about the same everywhere; the slowest one
sets the pace of all.  A pod is named when it takes half as long again as the others in three
windows in a row, and let go when it does not in three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from deepspeed_trainer.board.failures import name_ranks

SLOW: Final = 1.5
"""Times the median of the other pods."""
WINDOW_S: Final = 5.0
WINDOW_STEPS: Final = 10
"""A window is at least so long and holds at least so many steps of every rank."""
WINDOWS: Final = 3
LEAST_S: Final = 0.001
"""Differences of own time below this are noise of clocks and of the machine."""


@dataclass(frozen=True, slots=True)
class Count:
    """Sums of one rank since its process began."""

    steps: int
    own_s: float


@dataclass(frozen=True, slots=True)
class Slow:
    """A pod that is slow by itself; seconds of own time per step."""

    pod: str
    ranks: tuple[int, ...]
    own_s: float
    others_s: float

    @property
    def sentence(self) -> str:
        """What to tell people."""
        return (
            f"pod {self.pod} ({name_ranks(self.ranks)}) is slow by itself: its own part of a step"
            f" takes {self.own_s:.3g} s, that of the others {self.others_s:.3g} s; all wait for it."
            " Look at its CPU limit, the load of its node and its device"
        )


class StragglerWatch:
    """Compares pods window by window; single-threaded."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self.slow: Slow | None = None
        """The slowest of the pods that are named."""
        self.restart()

    def restart(self) -> None:
        """Forget all: the ranks begin anew."""
        self.slow = None
        self._counts: dict[int, Count] = {}
        self._begun: dict[int, Count] = {}
        self._begun_at = float("inf")
        self._streaks: dict[str, int] = {}
        self._named: set[str] = set()

    def note(
        self, rank: int, count: Count, now: float, pods: Mapping[int, str], *, looks: bool = True
    ) -> None:
        """Take a rank's sums; `pods` says where the ranks are, `looks` whether to compare now."""
        self._counts[rank] = count
        if looks and len(self._counts) == self._world_size > 1 and len(set(pods.values())) > 1:
            self._look(now, pods)

    def _look(self, now: float, pods: Mapping[int, str]) -> None:
        if not self._begun:
            self._begin(now)
        if now - self._begun_at < WINDOW_S:
            return
        steps = {r: count.steps - self._begun[r].steps for r, count in self._counts.items()}
        if min(steps.values()) < WINDOW_STEPS:
            return
        per_pod: dict[str, list[float]] = {}
        for rank, count in self._counts.items():
            own_s = (count.own_s - self._begun[rank].own_s) / steps[rank]
            per_pod.setdefault(pods[rank], []).append(own_s)
        self._close({pod: median(own) for pod, own in per_pod.items()}, pods)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._begun, self._begun_at = dict(self._counts), now

    def _close(self, own_s: Mapping[str, float], pods: Mapping[int, str]) -> None:
        found: list[Slow] = []
        for pod, own in own_s.items():
            others = median(other for name, other in own_s.items() if name != pod)
            is_slow = own > SLOW * others and own - others > LEAST_S
            if self._note_window(pod, is_slow=is_slow):
                ranks = tuple(rank for rank, name in pods.items() if name == pod)
                found.append(Slow(pod, ranks, own, others))
        self.slow = max(found, key=lambda slow: slow.own_s, default=None)

    def _note_window(self, pod: str, *, is_slow: bool) -> bool:
        """Return whether the pod is named, after a window in which it was slow or was not."""
        differs = is_slow != (pod in self._named)
        self._streaks[pod] = self._streaks.get(pod, 0) + 1 if differs else 0
        if self._streaks[pod] >= WINDOWS:
            self._streaks[pod] = 0
            self._named ^= {pod}
        return pod in self._named
