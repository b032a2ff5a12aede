"""The hang watchdog of an attempt: heartbeats and stack dumps in, an order or a verdict out. Pure.

It is armed when every rank has done three steps.  Each phase learns its limit from its own last
stays.  When no rank has moved for longer than its limit allows, all are told to dump their stacks,
and again ten seconds later; only stacks that have not moved in between are a hang.  Who works where
it stands (its processes compute, or move bytes), or cannot be asked, is given the start deadline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from deepspeed_trainer.board.beats import Beat, DumpOrder, Stack
from deepspeed_trainer.board.stuck import Stand, describe, find_minority
from deepspeed_trainer.contract import HangPolicy

ARMED_AFTER_STEPS: Final = 3
"""Steps of this process: the first ones compile, fill caches and wait for data."""
CONFIRM_AFTER_S: Final = 10.0
"""Between the two dumps."""
ANSWER_WITHIN_S: Final = 15.0
"""A rank whose supervisor says nothing for this long after an order has no stack to show."""
DUMP_WITHIN_S: Final = 60.0
"""The same for a supervisor that is heard and does not bring a dump."""
LOOK_EVERY_S: Final = 0.5
LONGEST_PAUSE_S: Final = 120.0
"""Between two pairs of dumps of ranks that move: it doubles from CONFIRM_AFTER_S up to this."""
BUSY_CPU_SHARE: Final = 0.1
"""Share of a core above which processes are at work; a thread that polls takes less."""
BUSY_BYTES_PER_S: Final = 1_000_000
"""Bytes read and written, whatever they are read from."""


@dataclass(frozen=True, slots=True)
class Hang:
    """The verdict."""

    rank: int
    """The first of the ranks that the others wait for, or the first of all."""
    message: str
    still_s: float


@dataclass(slots=True)
class _Rank:
    beat: Beat | None = None
    moved_at: float = 0.0
    heard_at: float = 0.0


@dataclass(slots=True)
class _Round:
    """One dump of all ranks."""

    order: DumpOrder
    ordered_at: float
    stacks: dict[int, Stack] = field(default_factory=dict)
    complete_at: float | None = None


class Watchdog:
    """Watches the ranks of one attempt; single-threaded."""

    def __init__(self, policy: HangPolicy, world_size: int) -> None:
        self._policy = policy
        self._world_size = world_size
        self._dumps = 0
        self._starts = 0
        self._round: _Round | None = None
        self._before: _Round | None = None
        self.restart()

    def restart(self) -> None:
        """Forget all ranks: their processes begin anew."""
        self._starts += 1
        self._ranks = {rank: _Rank() for rank in range(self._world_size)}
        self._ended: set[int] = set()
        self.last_look = float("-inf")
        """When it was asked last."""
        self._calm_down()

    # What comes in.

    def note_beat(self, rank: int, beat: Beat, now: float) -> None:
        """A rank had heartbeats since it was last heard."""
        state = self._ranks[rank]
        state.beat, state.moved_at = beat, now - beat.age_s

    def note_heard(self, rank: int, now: float) -> None:
        """A rank's supervisor has asked for orders."""
        self._ranks[rank].heard_at = now

    def note_stack(self, rank: int, number: int, stack: Stack) -> None:
        """A rank's supervisor brought the dump that was ordered."""
        if self._round is not None and self._round.order.number == number:
            self._round.stacks[rank] = stack

    def note_end(self, rank: int) -> None:
        """A rank's program has ended; it is watched no more."""
        self._ended.add(rank)

    # What goes out.

    @property
    def is_armed(self) -> bool:
        """Whether every rank that runs has heartbeats and has done its first steps."""
        watched = self._watched()
        return bool(watched) and all(
            state.beat is not None and state.beat.steps >= ARMED_AFTER_STEPS
            for state in watched.values()
        )

    def silent_ranks(self) -> list[int]:
        """Return the ranks that run and have shown no heartbeat yet."""
        return [rank for rank, state in self._watched().items() if state.beat is None]

    def dump_for(self, rank: int) -> DumpOrder | None:
        """Return the dump that a rank still owes."""
        if self._round is None or rank in self._round.stacks:
            return None
        return self._round.order

    def limit_s(self, beat: Beat) -> float:
        """Return how long a rank may stay in its phase."""
        stays = [s.beat.longest_s.get(beat.phase, 0.0) for s in self._ranks.values() if s.beat]
        if not any(stays):
            return self._policy.start_deadline_s
        return max(self._policy.min_s, self._policy.factor * max(stays))

    def look(self, now: float) -> Hang | None:
        """Decide; looks twice a second at most, however often it is asked."""
        if now - self.last_look < LOOK_EVERY_S:
            return None
        self.last_look = now
        if not self._policy.enabled or not self.is_armed or not self._is_overdue(now):
            self._calm_down()
            return None
        if self._round is None:
            if now >= self._not_before:
                self._order(now, "first")
            return None
        if not self._is_complete(self._round, now):
            return None
        if self._before is None:
            if now - (self._round.complete_at or now) >= CONFIRM_AFTER_S:
                self._before = self._round
                self._order(now, "second")
            return None
        return self._compare(self._before, self._round, now)

    # How it is decided.

    def _watched(self) -> dict[int, _Rank]:
        return {rank: state for rank, state in self._ranks.items() if rank not in self._ended}

    def _calm_down(self) -> None:
        self._round = self._before = None
        self._not_before = float("-inf")
        self._pause_s = CONFIRM_AFTER_S

    def _is_overdue(self, now: float) -> bool:
        limits: dict[str, float] = {}
        for state in self._watched().values():
            if state.beat is None:
                return False
            phase = state.beat.phase
            if phase not in limits:
                limits[phase] = self.limit_s(state.beat)
            if now - state.moved_at <= limits[phase]:
                return False
        return True

    def _order(self, now: float, which: str) -> None:
        self._dumps += 1
        order = DumpOrder(self._dumps, f"{self._starts}-{which}")
        self._round = _Round(order, now)

    def _is_complete(self, found: _Round, now: float) -> bool:
        if found.complete_at is not None:
            return True
        waited_s = now - found.ordered_at
        for rank, state in self._watched().items():
            is_silent = waited_s >= ANSWER_WITHIN_S and state.heard_at <= found.ordered_at
            if rank not in found.stacks and not is_silent and waited_s < DUMP_WITHIN_S:
                return False
        found.complete_at = now
        return True

    def _compare(self, before: _Round, after: _Round, now: float) -> Hang | None:
        stands = {
            rank: Stand(state.beat, after.stacks.get(rank, Stack(answered=False)))
            for rank, state in self._watched().items()
            if state.beat is not None
        }
        elapsed_s = after.ordered_at - before.ordered_at
        firsts = {rank: before.stacks.get(rank, Stack(answered=False)) for rank in stands}
        still_s = now - max(state.moved_at for state in self._watched().values())
        suspects = find_minority(stands) or list(stands)
        is_at_work = still_s < self._policy.start_deadline_s and any(
            _may_be_at_work(firsts[rank], stands[rank].stack, elapsed_s) for rank in suspects
        )
        if is_at_work or any(_has_moved(firsts[r], stands[r].stack, elapsed_s) for r in stands):
            self._round = self._before = None
            self._not_before = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return None
        return self._conclude(stands, still_s)

    def _conclude(self, stands: Mapping[int, Stand], still_s: float) -> Hang:
        self._calm_down()
        rank = min(find_minority(stands) or stands)
        beat = stands[rank].beat
        limit_s = self.limit_s(beat)
        message = (
            f"{describe(stands)}; no rank has moved for {still_s:.0f} s"
            f" (limit of {beat.phase}: {limit_s:.0f} s)"
        )
        return Hang(rank, message, still_s)


def _may_be_at_work(before: Stack, after: Stack, elapsed_s: float) -> bool:
    """Tell whether a rank computes or moves bytes, or cannot be asked because it may do so."""
    return not after.answered or _is_busy(before, after, elapsed_s)


def _is_busy(before: Stack, after: Stack, elapsed_s: float) -> bool:
    if not (before.answered and after.answered):
        return False
    used_s, moved = after.cpu_s - before.cpu_s, after.io_bytes - before.io_bytes
    return used_s >= BUSY_CPU_SHARE * elapsed_s or moved >= BUSY_BYTES_PER_S * elapsed_s


def _has_moved(before: Stack, after: Stack, elapsed_s: float) -> bool:
    """Tell whether the stacks differ; where there are none, whether the processes do anything."""
    if before.fingerprint is not None and after.fingerprint is not None:
        return before.fingerprint != after.fingerprint
    if before.answered != after.answered or before.state != after.state:
        return True
    return _is_busy(before, after, elapsed_s)
