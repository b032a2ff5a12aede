"""Ranks on a simulated clock: what they do, told to the watchdog as supervisors would tell it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from deepspeed_trainer.board.beats import Beat, DumpOrder, Phase, Stack
from deepspeed_trainer.board.watchdog import Hang, Watchdog
from deepspeed_trainer.contract import HangPolicy

TICK_S = 0.5
FOR_EVER_S = 1e9

Dump = Callable[[float], Stack]


def moving(now: float) -> Stack:
    """Code that runs: each look finds another line."""
    return Stack(state="R", fingerprint=f"at {now}", place="train.py:70", cpu_s=now)


def still(_now: float) -> Stack:
    return Stack(state="S", fingerprint="one place", place="train.py:88")


def waiting(_now: float) -> Stack:
    collective = "all_gather_into_tensor"
    return Stack(state="S", fingerprint="waits", place="train.py:60", waits_in=collective)


def stopped(_now: float) -> Stack:
    return Stack(state="T")


def computing(now: float) -> Stack:
    """One long call into native code."""
    return Stack(state="R", fingerprint="native", place="data.py:5", cpu_s=now)


def writing(now: float) -> Stack:
    return Stack(state="D", fingerprint="write", place="save.py:3", io_bytes=int(50e6 * now))


@dataclass
class Stay:
    """Some time in a phase, and what dumps show meanwhile; `silent` supervisors say nothing."""

    phase: Phase
    lasting_s: float
    dump: Dump = moving
    silent: bool = False


def a_step(**lasting_s: float) -> list[Stay]:
    """One step of training; phases may be given other durations in seconds."""
    usual = {"program": 0.2, "forward": 1.0, "backward": 1.5, "step": 0.3}
    return [Stay(Phase(name), s) for name, s in {**usual, **lasting_s}.items() if s]


def steps(count: int) -> Iterator[Stay]:
    return chain.from_iterable(a_step() for _ in range(count))


@dataclass
class Rank:
    """One rank as its supervisor sees it."""

    stays: Iterator[Stay]
    now: Stay = field(default_factory=lambda: Stay(Phase.PROGRAM, 0.0))
    entered_at: float = 0.0
    done: int = 0
    longest: dict[str, float] = field(default_factory=dict)

    def advance(self, now: float) -> bool:
        """Go on to this moment; True when phases were entered."""
        moved = False
        while now >= self.entered_at + self.now.lasting_s:
            phase = self.now.phase
            self.longest[phase] = max(self.longest.get(phase, 0.0), self.now.lasting_s)
            self.done += phase is Phase.STEP
            self.entered_at += self.now.lasting_s
            self.now = next(self.stays, Stay(Phase.PROGRAM, FOR_EVER_S, moving))
            moved = True
        return moved

    def beat(self, now: float) -> Beat:
        return Beat(
            phase=self.now.phase,
            step=self.done,
            steps=self.done,
            age_s=now - self.entered_at,
            longest_s=dict(self.longest),
        )


class Simulation:
    """Some ranks and their watchdog."""

    def __init__(self, *lives: Iterable[Stay], **policy: object) -> None:
        self.ranks = [Rank(iter(life)) for life in lives]
        self.watchdog = Watchdog(HangPolicy(**policy), len(lives))  # type: ignore[arg-type]
        self.orders: list[DumpOrder] = []
        self.now = 0.0

    def run(self, until_s: float) -> Hang | None:
        """Run until a hang is found, or to the given moment."""
        while self.now < until_s:
            self.now += TICK_S
            for number, rank in enumerate(self.ranks):
                moved = rank.advance(self.now)
                if not rank.now.silent:
                    self._talk(number, rank, moved)
                hang = self.watchdog.look(self.now)
                if hang is not None:
                    return hang
        return None

    def _talk(self, number: int, rank: Rank, moved: bool) -> None:
        if moved:
            self.watchdog.note_beat(number, rank.beat(self.now), self.now)
        self.watchdog.note_heard(number, self.now)
        order = self.watchdog.dump_for(number)
        if order is not None:
            if order not in self.orders:
                self.orders.append(order)
            self.watchdog.note_stack(number, order.number, rank.now.dump(self.now))


def all_alike(count: int, life: Callable[[], Sequence[Stay]]) -> list[Sequence[Stay]]:
    return [life() for _ in range(count)]
