"""Optimizer steps of a rank, counted at the engine's optimizer.

Some programs call `optimizer.step()` and leave `engine.global_steps` at 0.  The first engine that
has an optimizer is the one that counts, as long as it lives; then the next one that is made.  What
the others do is heard as a heartbeat and disturbs no figure.
"""

import functools
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.meter import Meter, format_decimal
from deepspeed_trainer.hooks.wire import Report

LOSS_INTERVAL_S: Final = 0.5
"""Reading a loss from a device waits for the device, so it is done this often at most."""


class StepWatch:
    """Follows one engine of one rank, step by step."""

    def __init__(self, rank: int, report: Report, heartbeat: Heartbeat) -> None:
        self.done = 0
        """The optimizer step that was done last, those before a resume included."""
        self.before_step: Callable[[], None] = lambda: None
        """Called when an optimizer step begins."""
        self.before_counted_step: Callable[[], None] = lambda: None
        self.after_counted_step: Callable[[], None] = lambda: None
        """Called around those of the engine that counts."""
        self.between_steps: Callable[[], None] = lambda: None
        """Called when an optimizer step returns; what it raises the program meets."""
        self._rank = rank
        self._report = report
        self.heartbeat = heartbeat
        self._guard = Guard(report)
        self._counted: Callable[[], Any] = _nobody
        self._meter = Meter()
        self._base = 0
        self._begun = 0
        self._loss: Any = None
        self._loss_read_at = 0.0

    @property
    def engine(self) -> Any:
        """The engine that counts, None when there is none."""
        return self._counted()

    @property
    def zero_stage(self) -> int:
        """ZeRO stage of the engine that counts; 0 when there is none."""
        engine = self._counted()
        return 0 if engine is None else int(engine.zero_optimization_stage())

    def patch(self, engine: Any) -> None:
        """Wrap the methods of the class DeepSpeedEngine."""
        self._guard.after(engine, "__init__", self._note_engine)
        self._guard.before(engine, "forward", self._note_forward)
        self._guard.before(engine, "backward", self._note_backward)
        self.heartbeat.around(engine, "forward", Phase.FORWARD, _kind_of_forward)
        self.heartbeat.around(engine, "backward", Phase.BACKWARD)
        self.heartbeat.around(engine, "step", Phase.STEP)

    def start_from(self, engine: Any, step: int) -> None:
        """A load brought this step back; that of an engine that does not count says nothing."""
        if engine is not self._counted():
            return
        self._base = self.done = self._begun = step
        self.heartbeat.start_from(step)

    def _note_engine(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        step = getattr(engine.optimizer, "step", None)
        if step is None:
            return
        # Held weakly: an engine that its program has dropped must not keep a device's memory.
        this = weakref.ref(engine)

        @functools.wraps(step)
        def counted_step(*args: Any, **kwargs: Any) -> Any:
            self._guard.call(self._note_step_begins, this())
            self.heartbeat.enter(Phase.STEP)
            try:
                result = step(*args, **kwargs)
            finally:
                self.heartbeat.leave()
            self._guard.call(self._note_step_of, this())
            self.between_steps()
            return result

        engine.optimizer.step = counted_step
        if self._counted() is None:
            self._count(engine)

    def _count(self, engine: Any) -> None:
        self._counted = weakref.ref(engine)
        self._report(
            {
                "kind": "engine",
                "zero_stage": engine.zero_optimization_stage(),
                "total_steps": _total_steps(engine),
                "versions": _versions(),
            }
        )

    def _note_step_of(self, engine: Any) -> None:
        if self._counted() is None:
            self._count(engine)  # the one that counted is gone
        if engine is self._counted():
            self._note_step(engine)

    def _note_forward(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        """With ZeRO-3 a forward alone needs all ranks; below, only a backward does."""
        is_training = _kind_of_forward(engine) is Phase.FORWARD
        if is_training and engine.zero_optimization_stage() == 3:
            self._note_begun(engine)

    def _note_backward(self, engine: Any, loss: Any = None, *_args: Any, **_kwargs: Any) -> None:
        self._note_begun(engine)
        if engine is self._counted() and self._rank == 0 and hasattr(loss, "detach"):
            self._loss = loss.detach()

    def _note_begun(self, engine: Any) -> None:
        if engine is self._counted() and self._begun <= self.done:
            self._begun = self.done + 1
            self._report({"kind": "step", "done": self.done, "begun": self._begun})

    def _note_step_begins(self, engine: Any) -> None:
        self.before_step()
        if engine is self._counted():
            self.before_counted_step()

    def _note_step(self, engine: Any) -> None:
        self.done += 1
        self._begun = max(self._begun, self.done)
        self.heartbeat.note_step(self.done)
        now = time.monotonic()
        self._meter.add(now, engine.train_batch_size())
        fact = {
            "kind": "step",
            "done": self.done,
            "begun": self.done,
            "rate": self._meter.per_second,
        }
        if self._loss is not None and now - self._loss_read_at >= LOSS_INTERVAL_S:
            self._loss_read_at = now
            fact["loss"] = format_decimal(float(self._loss))
        if self.done == self._base + 1:
            fact["first"] = self.done
        self._report(fact)
        self.after_counted_step()


def _nobody() -> None:
    """Stand for the engine that counts before there is one."""


def _kind_of_forward(engine: Any) -> Phase:
    import torch  # noqa: PLC0415  imported long ago by the program

    return Phase.FORWARD if engine.module.training and torch.is_grad_enabled() else Phase.EVAL


def _total_steps(engine: Any) -> int | None:
    total = (engine.scheduler_params() or {}).get("total_num_steps")
    return int(total) if total else None


def _versions() -> dict[str, str]:
    import deepspeed  # noqa: PLC0415  imported long ago by the program
    import torch  # noqa: PLC0415

    return {"torch": str(torch.__version__), "deepspeed": str(deepspeed.__version__)}
