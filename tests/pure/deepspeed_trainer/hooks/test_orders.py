"""A program that is asked to save: where it waits, what it answers, and who saves.

The program runs in a thread, or here where it is sent a signal; the test is its supervisor.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.orders import SaveOrders
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.saves import SaveWatch
from deepspeed_trainer.hooks.steps import StepWatch


class Engine:
    """As much of DeepSpeed's as the hooks see; each test patches a class of its own."""

    def __init__(self) -> None:
        self.optimizer = SimpleNamespace(step=lambda: None)
        self.module = SimpleNamespace(training=True)
        self.global_steps = 0
        self.accumulates = False

    def forward(self) -> None:
        """Not looked at here."""

    def backward(self) -> None:
        """Not looked at here."""

    def step(self) -> None:
        if not self.accumulates:
            self.optimizer.step()
            self.global_steps += 1

    def save_checkpoint(self, save_dir: Path, tag: str) -> None:
        """Nothing is written."""

    def load_checkpoint(self) -> None:
        """Not looked at here."""

    def zero_optimization_stage(self) -> int:
        return 3

    def scheduler_params(self) -> None:
        return None

    def train_batch_size(self) -> int:
        return 8


class Program:
    """A rank whose engine only counts."""

    def __init__(self, tmp_path: Path, signal_name: str = "") -> None:
        self.facts: list[Mapping[str, Any]] = []
        page = Page.anonymous()
        self.steps = StepWatch(0, self.facts.append, Heartbeat(lambda: page, self.facts.append))
        saves = SaveWatch(0, self.facts.append, self.steps)
        path = tmp_path / "orders"
        self.page = OrderPage.create(path)
        found = OrderPage.find(path)
        self.orders = SaveOrders(self.facts.append, self.steps, saves, found, signal_name)

        engine: Any = type("PatchedEngine", (Engine,), {})
        self.steps.patch(engine)
        saves.patch(engine)
        self.orders.patch_engine(engine)
        self.engine: Any = engine()

    def told(self, *kinds: str) -> list[tuple[str, int]]:
        return [(f["kind"], f["step"]) for f in self.facts if f["kind"] in kinds]

    def await_fact(self, kind: str) -> None:
        deadline = time.monotonic() + 30
        while not self.told(kind):
            assert time.monotonic() < deadline, f"never said {kind}: {self.facts}"
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSJOB_CHECKPOINT_DIR", str(tmp_path))
    monkeypatch.setattr("deepspeed_trainer.hooks.steps._versions", dict)


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive(), "the program waits for ever"


def test_nothing_is_asked_as_long_as_no_step_is_named(tmp_path: Path) -> None:
    program = Program(tmp_path)
    for _ in range(3):
        program.engine.step()
        program.orders.meet(lambda: pytest.fail("nobody asked"))
    assert program.told("armed", "late", "held") == []


def test_a_rank_waits_at_the_step_saves_once_and_takes_no_further_step(tmp_path: Path) -> None:
    program = Program(tmp_path)
    saved: list[int] = []

    def train() -> None:
        for _ in range(6):
            program.engine.step()
            program.orders.meet(lambda: saved.append(program.steps.done))

    program.page.write(3, is_agreed=False)
    with beside(train):
        program.await_fact("armed")
        time.sleep(0.1)
        assert (program.steps.done, saved) == (3, []), "the others have not agreed yet"
        program.page.write(3, is_agreed=True)
        program.await_fact("held")
        assert (program.steps.done, saved) == (3, [3])
        program.page.write(0, is_agreed=False)
    assert program.told("armed", "late", "held") == [("armed", 3), ("held", 3)]


def test_a_rank_that_waits_goes_on_to_a_later_step(tmp_path: Path) -> None:
    program = Program(tmp_path)
    saved: list[int] = []

    def train() -> None:
        for _ in range(6):
            program.engine.step()
            program.orders.meet(lambda: saved.append(program.steps.done))

    program.page.write(2, is_agreed=False)
    with beside(train):
        program.await_fact("armed")
        program.page.write(5, is_agreed=False)
        while program.told("armed")[-1][1] != 5:
            time.sleep(0.001)
        program.page.write(5, is_agreed=True)
        program.await_fact("held")
        program.page.write(0, is_agreed=False)
    assert saved == [5]


def test_a_rank_that_has_passed_says_so_and_does_not_wait(tmp_path: Path) -> None:
    program = Program(tmp_path)
    for _ in range(4):
        program.engine.step()
    program.page.write(3, is_agreed=False)
    program.orders.meet(lambda: pytest.fail("it is past the step"))
    program.engine.step()
    assert program.told("armed", "late") == [("late", 3)]


def test_a_save_that_the_program_made_at_the_step_is_good_too(tmp_path: Path) -> None:
    program = Program(tmp_path)

    def train() -> None:
        program.engine.step()
        program.engine.save_checkpoint(tmp_path, "step1")
        program.orders.meet(lambda: pytest.fail("it has just saved"))

    program.page.write(1, is_agreed=True)
    with beside(train):
        program.await_fact("held")
        program.page.write(0, is_agreed=False)
    kinds = [f["kind"] for f in program.facts]
    assert kinds.index("saved") < kinds.index("save_end") < kinds.index("held")


def test_a_program_that_never_meets_the_order_is_held_before_its_next_step(tmp_path: Path) -> None:
    program = Program(tmp_path)

    def train() -> None:
        for _ in range(3):
            program.engine.step()

    program.page.write(2, is_agreed=True)
    with beside(train):
        program.await_fact("held")
        assert program.steps.done == 2
        program.page.write(0, is_agreed=False)


def test_another_engine_is_not_held(tmp_path: Path) -> None:
    """As of a program with two: the one that counts has done the step, the other has not yet."""
    program = Program(tmp_path)
    other = type(program.engine)()
    program.engine.step()
    program.page.write(1, is_agreed=True)
    with beside(other.step):
        pass
    assert program.told("held") == []


def send_and_count(program: Program, act: Callable[[Any], None]) -> list[int]:
    """Run three steps; return what DeepSpeed had counted when the program's handler ran."""
    seen: list[int] = []

    def handle(*_: Any) -> None:
        seen.append(program.engine.global_steps)
        program.page.write(0, is_agreed=False)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        program.page.write(2, is_agreed=True)
        for _ in range(3):
            act(program.engine)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return seen


def test_a_handler_runs_once_when_deepspeed_has_counted_the_step(tmp_path: Path) -> None:
    program = Program(tmp_path, "SIGUSR1")
    assert send_and_count(program, lambda engine: engine.step()) == [2]
    assert program.told("signalled") == [("signalled", 2)]
    assert [f["name"] for f in program.facts if f["kind"] == "saver"] == ["a handler of SIGUSR1"]


def test_micro_batches_after_the_step_send_no_second_signal(tmp_path: Path) -> None:
    program = Program(tmp_path, "SIGUSR1")
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(program.steps.done))
    try:
        program.page.write(1, is_agreed=True)
        program.engine.step()
        program.engine.accumulates = True
        program.engine.step()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [1]


def test_a_handler_runs_where_the_program_steps_the_optimizer_itself(tmp_path: Path) -> None:
    program = Program(tmp_path, "SIGUSR1")
    assert send_and_count(program, lambda engine: engine.optimizer.step()) == [0]
    assert program.told("signalled") == [("signalled", 2)]


def test_what_a_handler_raises_reaches_the_program(tmp_path: Path) -> None:
    program = Program(tmp_path, "SIGUSR1")

    def handle(*_: Any) -> None:
        raise KeyError("told to save")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        program.page.write(1, is_agreed=True)
        with pytest.raises(KeyError, match="told to save"):
            program.engine.optimizer.step()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_program_without_a_handler_offers_nothing(tmp_path: Path) -> None:
    program = Program(tmp_path, "SIGUSR1")
    program.engine.step()
    assert [f for f in program.facts if f["kind"] == "saver"] == []


class Control:
    should_save = False


def test_transformers_trainer_is_asked_and_held_after_its_save(tmp_path: Path) -> None:
    program = Program(tmp_path)

    class CallbackHandler:
        def on_train_begin(self) -> None:
            """As the original: nothing of ours."""

        def on_save(self, _control: Control) -> None:
            """As the original: nothing of ours."""

    class DefaultFlowCallback:
        def on_step_end(self, _args: Any, _state: Any, control: Control) -> Control:
            return control

    module: Any = SimpleNamespace(
        CallbackHandler=CallbackHandler, DefaultFlowCallback=DefaultFlowCallback
    )
    program.orders.patch_transformers(module)
    asked: list[bool] = []

    def train() -> None:
        CallbackHandler().on_train_begin()
        for _ in range(3):
            program.engine.step()
            control = DefaultFlowCallback().on_step_end(None, None, Control())
            asked.append(control.should_save)
            if control.should_save:
                CallbackHandler().on_save(control)

    program.page.write(2, is_agreed=True)
    with beside(train):
        program.await_fact("held")
        assert asked == [False, True]
        program.page.write(0, is_agreed=False)
    assert [f["name"] for f in program.facts if f["kind"] == "saver"] == ["transformers.Trainer"]
