"""What a rank's page shows of the phases that its program goes through."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks import page as cell
from deepspeed_trainer.hooks.heartbeat import WINDOW, Heartbeat
from deepspeed_trainer.hooks.page import PHASES, Page, Pulse


class Rank:
    """A program with a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.page = Page.anonymous()
        self.facts: list[Mapping[str, Any]] = []
        self.heart = Heartbeat(lambda: self.page, self.facts.append, lambda: self.now)

    @contextmanager
    def within(self, phase: Phase, lasting_s: float = 0.0) -> Iterator[None]:
        self.heart.enter(phase)
        self.now += lasting_s
        yield
        self.heart.leave()

    def spend(self, phase: Phase, lasting_s: float) -> None:
        with self.within(phase, lasting_s):
            pass

    @property
    def pulse(self) -> Pulse:
        found = self.page.read()
        assert found is not None
        return found

    def longest(self, phase: Phase) -> float:
        return self.pulse.longest_s[PHASES.index(phase)]


@pytest.fixture
def rank() -> Rank:
    return Rank()


def test_there_is_no_pulse_before_the_first_heartbeat(rank: Rank) -> None:
    assert rank.page.read() is None


def test_a_phase_is_told_when_it_is_entered_and_when_it_is_left(rank: Rank) -> None:
    with rank.within(Phase.FORWARD, 2.0):
        assert (rank.pulse.phase, rank.pulse.entered_at) == (Phase.FORWARD, 100.0)
    assert (rank.pulse.phase, rank.pulse.entered_at) == (Phase.PROGRAM, 102.0)
    assert rank.pulse.beats == 2


def test_the_phase_around_another_goes_on_after_it(rank: Rank) -> None:
    with rank.within(Phase.SAVE):
        rank.spend(Phase.STEP, 1.0)
        assert rank.pulse.phase is Phase.SAVE


def test_a_phase_is_left_when_its_method_raises(rank: Rank) -> None:
    class Engine:
        def step(self) -> None:
            raise ValueError

    rank.heart.around(Engine, "step", Phase.STEP)
    with pytest.raises(ValueError):  # noqa: PT011  it is the program's own
        Engine().step()
    assert rank.pulse.phase is Phase.PROGRAM


def test_the_longest_stay_is_kept_and_forgotten_after_many_shorter_ones(rank: Rank) -> None:
    rank.spend(Phase.FORWARD, 60.0)
    for _ in range(WINDOW - 1):
        rank.spend(Phase.FORWARD, 1.0)
    assert rank.longest(Phase.FORWARD) == 60.0
    for _ in range(WINDOW):
        rank.spend(Phase.FORWARD, 1.0)
    assert rank.longest(Phase.FORWARD) == 1.0


def test_own_time_leaves_out_waiting_saving_and_eval(rank: Rank) -> None:
    class Work:
        def wait(self) -> None:
            rank.now += 5.0

    rank.heart.watch_waits(Work)
    with rank.within(Phase.FORWARD, 1.0):
        Work().wait()
    with rank.within(Phase.SAVE, 7.0):
        Work().wait()
    rank.spend(Phase.EVAL, 9.0)
    rank.now += 0.5
    rank.heart.note_step(1)
    assert rank.pulse.own_s == 1.5
    rank.now += 2.0
    rank.heart.note_step(2)
    assert (rank.pulse.own_s, rank.pulse.step, rank.pulse.steps) == (3.5, 2, 2)


def test_only_the_thread_that_trains_is_heard(rank: Rank) -> None:
    with rank.within(Phase.FORWARD):
        other = threading.Thread(target=rank.spend, args=(Phase.SAVE, 1.0))
        other.start()
        other.join()
        assert rank.pulse.phase is Phase.FORWARD
        assert rank.pulse.beats == 1


def test_a_page_that_cannot_be_made_is_told_once_and_harms_nobody() -> None:
    facts: list[Mapping[str, Any]] = []

    def refuse() -> Page:
        raise PermissionError("read-only")

    heart = Heartbeat(refuse, facts.append)
    for _ in range(2):
        heart.enter(Phase.FORWARD)
        heart.leave()
    heart.note_step(1)
    assert [fact["kind"] for fact in facts] == ["hook"]
    assert "read-only" in facts[0]["failure"]


def test_a_page_of_a_later_process_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    assert Page.find(path) is None
    first = Page.create(path)
    seen = Page.find(path)
    first.cells[cell.BEATS] = 1
    assert seen is not None
    assert seen.read() is not None
    Page.create(path).cells[cell.BEATS] = 2
    later = Page.find(path)
    assert later is not None
    assert (later.read() or rank_that_is_silent()).beats == 2
    assert (seen.read() or rank_that_is_silent()).beats == 1, "the reader of the old page is harmed"


def rank_that_is_silent() -> Pulse:
    raise AssertionError("no pulse")


def test_a_page_that_is_being_written_is_not_read(rank: Rank) -> None:
    rank.spend(Phase.FORWARD, 1.0)
    rank.page.cells[cell.TURN] += 1
    assert rank.page.read() is None
