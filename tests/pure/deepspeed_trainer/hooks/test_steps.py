"""Which engine's steps count, and that the others of a program disturb nothing."""

import gc
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.steps import StepWatch


class Program:
    """A rank's program with engines as DeepSpeed makes them, without DeepSpeed."""

    def __init__(self) -> None:
        self.facts: list[Mapping[str, Any]] = []
        self.page = Page.anonymous()
        heart = Heartbeat(lambda: self.page, self.facts.append)
        self.watch = StepWatch(0, self.facts.append, heart)
        self.seen: list[Phase | None] = []
        program = self

        class Engine:
            def __init__(self) -> None:
                self.optimizer = SimpleNamespace(step=program.note_phase)
                self.module = SimpleNamespace(training=True)

            def forward(self) -> None:
                program.note_phase()

            def backward(self, _loss: float) -> None:
                program.note_phase()

            def step(self) -> None:
                self.optimizer.step()

            def zero_optimization_stage(self) -> int:
                return 3

            def scheduler_params(self) -> None:
                return None

            def train_batch_size(self) -> int:
                return 8

        self.watch.patch(Engine)
        self.engine = Engine

    def note_phase(self) -> None:
        found = self.page.read()
        self.seen.append(found.phase if found else None)

    def counted(self) -> list[int]:
        return [fact["done"] for fact in self.facts if "rate" in fact]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    torch = SimpleNamespace(__version__="2", is_grad_enabled=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(__version__="0"))  # type: ignore[arg-type]
    return Program()


def test_a_step_is_counted_once_by_whichever_call(program: Program) -> None:
    engine = program.engine()
    engine.step()
    engine.optimizer.step()
    assert program.counted() == [1, 2]
    pulse = program.page.read()
    assert pulse is not None
    assert (pulse.step, pulse.steps) == (2, 2)


def test_each_call_of_the_engine_is_a_phase(program: Program, monkeypatch: Any) -> None:
    engine = program.engine()
    engine.forward()
    engine.backward(1.0)
    engine.step()
    monkeypatch.setattr(sys.modules["torch"], "is_grad_enabled", lambda: False)
    engine.forward()
    assert program.seen == [Phase.FORWARD, Phase.BACKWARD, Phase.STEP, Phase.EVAL]


def test_another_engine_does_not_count(program: Program) -> None:
    actor, critic = program.engine(), program.engine()
    actor.step()
    begun = [fact for fact in program.facts if fact["kind"] == "step"]
    for _ in range(3):
        critic.forward()
        critic.backward(1.0)
        critic.step()
    assert [fact for fact in program.facts if fact["kind"] == "step"] == begun
    program.watch.start_from(critic, 40)
    assert program.watch.done == 1
    program.watch.start_from(actor, 30)
    actor.step()
    assert program.counted() == [1, 31]


def test_another_engine_is_heard(program: Program) -> None:
    program.engine().step()
    critic = program.engine()
    critic.forward()
    assert program.seen[-1] is Phase.FORWARD


def test_an_engine_that_is_gone_hands_over_the_count(program: Program) -> None:
    first = program.engine()
    first.step()
    second = program.engine()
    del first
    gc.collect()
    second.step()
    assert program.counted() == [1, 2]
