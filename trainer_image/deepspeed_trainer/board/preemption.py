"""A pod is told to go: which step all ranks save at before it does, and what became of that. Pure.

One step is named for all ranks, the next that none of them has passed.  Each answers whether it
still can; when one cannot, a later step is named.  Once all have agreed they save there and stop,
and when the save counts the attempt ends.  Nothing is saved by a program that has no saver, nor
when the last save took longer than what is left of the pod's grace.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from deepspeed_trainer.board.failures import name_ranks
from deepspeed_trainer.board.ranks import RankState, SaveOrder
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.progress import Cause, Failure, ResumedFrom, SavedCheckpoint

HEAR_WITHIN_S: Final = 1.5
"""Until a rank knows a named step: its pause between two talks, and that of its last count."""
HEAR_S_PER_RANK: Final = 3 / 256
"""The same where many ranks make the pauses longer."""
LEAVE_WITHIN_S: Final = 3.0
"""What of the grace is kept for the ranks' end."""
PACE_STEPS: Final = 20
MANY_RANKS: Final = 64
LOOK_S_PER_RANK: Final = 0.0002
"""Between two looks at all ranks, where they are more than MANY_RANKS."""
FACTS: Final = frozenset({"going", "saver", "armed", "late", "held", "signalled"})

Ranks = Mapping[int, RankState]


@dataclass(frozen=True, slots=True)
class Saved:
    """What the attempt has saved by now, as far as a preemption must know."""

    step: int
    """Of the newest checkpoint that counts, or that the attempt continued from; 0 for none."""
    is_pending: bool
    """Whether a save is held by all ranks and does not count yet."""

    @classmethod
    def of(
        cls, own: SavedCheckpoint | None, earlier: ResumedFrom | None, *, is_pending: bool
    ) -> Self:
        """Take the attempt's newest checkpoint, or the one that it continued from."""
        step = max((one.step for one in (own, earlier) if one is not None), default=0)
        return cls(step, is_pending)


@dataclass(slots=True)
class _Leave:
    """The first pod that was told to go, and until when its ranks may work."""

    pod: str
    grace_s: float
    due_at: float


@dataclass(slots=True)
class _Answers:
    """What the ranks said about the step that is named."""

    armed: set[int] = field(default_factory=set)
    reached: dict[int, float] = field(default_factory=dict)
    """When a rank was first seen at the step, or beyond it."""
    held: set[int] = field(default_factory=set)
    signalled: set[int] = field(default_factory=set)


class Preemption:
    """The one door of the attempt to it; single-threaded."""

    def __init__(self, contract: RunContract) -> None:
        self._world_size = contract.world_size
        self._hear_s = max(HEAR_WITHIN_S, HEAR_S_PER_RANK * contract.world_size)
        self._most_done = 0
        self._look_at = float("-inf")
        self._leave: _Leave | None = None
        self._save_s: float | None = None
        self._closed_at: dict[int, float] = {}
        self.begin_round()

    def begin_round(self) -> None:
        """Forget the ranks: they start anew, and say again when their pod goes."""
        self._leave = None
        self._savers: dict[int, str] = {}
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE_STEPS)
        self._tries = 0
        self._step = 0
        self._is_agreed = False
        self._answers = _Answers()

    # What comes in.

    @property
    def is_on(self) -> bool:
        """Whether a pod of the attempt was told to go."""
        return self._leave is not None

    def note_going(self, pod: str, grace_s: float, now: float) -> None:
        """A pod was told to go and will be killed after its grace; the first to end counts."""
        due_at = now + max(0.0, grace_s - LEAVE_WITHIN_S)
        if self._leave is None or due_at < self._leave.due_at:
            self._leave = _Leave(pod, grace_s, due_at)

    def note_head(self, grace_s: float | None, now: float) -> None:
        """The head's own pod was told to go, or was not: None."""
        if grace_s is not None:
            self.note_going("of the head", grace_s, now)

    def take(self, rank: int, fact: Mapping[str, Any], now: float) -> None:
        """Take one of FACTS."""
        match fact["kind"]:
            case "going":
                self.note_going(fact["pod"], float(fact["grace_s"]), now)
            case "saver" if fact["name"]:
                self._savers[rank] = fact["name"]
            case "saver":
                self._savers.pop(rank, None)
            case "armed" if fact["step"] == self._step:
                self._answers.armed.add(rank)
            case "held" if fact["step"] == self._step:
                self._answers.held.add(rank)
            case "signalled" if fact["step"] == self._step:
                self._answers.signalled.add(rank)
            case _:
                pass  # "late" is seen in the rank's own count, too

    def note_steps(self, rank: int, done: int, now: float) -> None:
        """A rank has done so many steps; how long one takes is measured by rank 0."""
        self._most_done = max(self._most_done, done)
        if done >= self._step:
            self._answers.reached.setdefault(rank, now)
        if rank == 0 and (not self._pace or done > self._pace[-1][1]):
            self._pace.append((now, done))

    def note_closed(self, number: int, fact: Mapping[str, Any], now: float) -> None:
        """A rank holds a save: it began when the program began to write it."""
        began = now - float(fact["blocked_s"]) - float(fact["wrote_s"])
        self._closed_at[number] = min(began, self._closed_at.get(number, began))

    def note_committed(self, number: int, now: float) -> None:
        """A save counts: so long it took, from its first byte on."""
        began = self._closed_at.get(number)
        if began is not None:
            self._save_s = now - began
        self._closed_at = {n: at for n, at in self._closed_at.items() if n > number}

    # What goes out.

    @property
    def order(self) -> SaveOrder | None:
        """What all ranks are told."""
        return SaveOrder(self._step, self._is_agreed) if self._step else None

    @property
    def notice(self) -> str | None:
        """What is going on, in one sentence."""
        if self._leave is None:
            return None
        told = f"pod {self._leave.pod} was told to go"
        return f"{told}: all ranks save at step {self._step}" if self._step else told

    def look(self, ranks: Ranks, saved: Saved, now: float) -> Failure | None:
        """Name a step, or return the end of the attempt."""
        if self._leave is None:
            return None
        have_ended = bool(ranks) and all(state.end for state in ranks.values())
        # With the last end the round is judged, so what is known by then must have been looked at.
        if now < self._look_at and not have_ended:
            return None
        self._look_at = now + LOOK_S_PER_RANK * max(0, self._world_size - MANY_RANKS)
        if self._is_agreed:
            return self._await_save(ranks, saved, now)
        # How they ended is all that counts; what a save takes, and what is lost, is known when it
        # counts.
        if have_ended or (saved.is_pending and now <= self._leave.due_at):
            return None
        why_not = self._find_hindrance(ranks, now)
        if why_not is not None:
            return self._end(saved, why_not)
        if len(self._answers.armed) == self._world_size:
            self._is_agreed = True
        elif self._step == 0 or self._is_passed(ranks, now):
            done = max(state.steps for state in ranks.values())
            self._name_step(max(done + 1, *(state.begun for state in ranks.values())))
        return None

    def _has_stepped(self, ranks: Ranks) -> bool:
        return all(state.first_step is not None for state in ranks.values())

    def _find_hindrance(self, ranks: Ranks, now: float) -> str | None:
        assert self._leave is not None  # noqa: S101  the caller looked
        if len(ranks) < self._world_size or not self._has_stepped(ranks):
            return "the ranks had not done a step yet"
        left_s = self._leave.due_at - now
        if len(self._savers) < self._world_size:
            absent = sorted(set(range(self._world_size)) - set(self._savers))
            return f"no save was started: not supported by the program on {name_ranks(absent)}"
        if left_s <= 0:
            return f"the ranks came to no common step within {self._leave.grace_s:.0f} s"
        if self._save_s is not None and self._save_s > left_s:
            return (
                f"no save was started: the last one took {self._save_s:.0f} s,"
                f" {left_s:.0f} s are left of the grace of {self._leave.grace_s:.0f} s"
                " (spec.preemption.graceSeconds)"
            )
        return None

    def _is_passed(self, ranks: Ranks, now: float) -> bool:
        """A rank that is beyond the step and has said nothing will not stop at it.

        Whether it will is open for a moment when it is at the step: its word may be on its way.
        """
        answers = self._answers
        return any(
            state.begun > self._step or now - answers.reached.get(rank, now) > self._hear_s
            for rank, state in ranks.items()
            if rank not in answers.armed
        )

    def _name_step(self, newest: int) -> None:
        """Name a step that no rank has passed by the time it hears of it."""
        margin_s = self._hear_s * (1 + self._tries)
        step_s = self._step_s()
        ahead = math.floor(margin_s / step_s) if step_s else 1
        self._tries += 1
        self._step = max(newest + ahead, self._step + 1)
        self._answers = _Answers()

    def _step_s(self) -> float:
        """Return the seconds that a step takes; 0 when that is not known."""
        if len(self._pace) < 2:
            return 0.0
        (began, first), (ended, last) = self._pace[0], self._pace[-1]
        return (ended - began) / (last - first)

    def _await_save(self, ranks: Ranks, saved: Saved, now: float) -> Failure | None:
        assert self._leave is not None  # noqa: S101  the caller looked
        ended = {rank for rank, state in ranks.items() if state.end}
        done_with = self._answers.held | (self._answers.signalled & ended)
        if saved.step >= self._step and not saved.is_pending:
            if len(done_with) == self._world_size:
                return self._end(saved, f"all ranks saved at step {self._step} and stopped")
        elif len(done_with) == self._world_size and not saved.is_pending:
            return self._end(saved, f"the program did not save at step {self._step}")
        if now > self._leave.due_at:
            why = f"the save of step {self._step} did not count within {self._leave.grace_s:.0f} s"
            return self._end(saved, why)
        return None

    def _end(self, saved: Saved, what: str) -> Failure:
        assert self._leave is not None  # noqa: S101  the caller looked
        lost = _say_lost(self._most_done, saved.step)
        message = f"pod {self._leave.pod} was told to go; {what}; {lost}"
        return Failure(Cause.PREEMPTED, message, node=self._leave.pod)


def _say_lost(done: int, saved: int) -> str:
    if done <= saved:
        return "no step is lost"
    steps = "1 step is" if done - saved == 1 else f"{done - saved} steps are"
    since = f"since the checkpoint of step {saved}" if saved else "there is no checkpoint"
    return f"{steps} done again, {since}"
