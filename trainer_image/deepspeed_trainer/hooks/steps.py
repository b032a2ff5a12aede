"""Optimizer steps of a rank, counted at the engine's optimizer.

Some programs call `optimizer.step()` and leave `engine.global_steps` at 0.  The first engine that
has an optimizer is the one that counts.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, Final

from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.meter import Meter, format_decimal
from deepspeed_trainer.hooks.wire import Report

LOSS_INTERVAL_S: Final = 0.5
"""Reading a loss from a device waits for the device, so it is done this often at most."""


class StepWatch:
    """Follows one engine of one rank, step by step."""

    def __init__(self, rank: int, report: Report) -> None:
        self.done = 0
        """The optimizer step that was done last, those before a resume included."""
        self.before_step: Callable[[], None] = lambda: None
        """Called when an optimizer step begins."""
        self._rank = rank
        self._report = report
        self._guard = Guard(report)
        self._engine: Any = None
        self._meter = Meter()
        self._base = 0
        self._begun = 0
        self._loss: Any = None
        self._loss_read_at = 0.0

    @property
    def zero_stage(self) -> int:
        """ZeRO stage of the engine that counts; 0 when there is none."""
        return 0 if self._engine is None else int(self._engine.zero_optimization_stage())

    def patch(self, engine: Any) -> None:
        """Wrap the methods of the class DeepSpeedEngine."""
        self._guard.after(engine, "__init__", self._note_engine)
        self._guard.before(engine, "forward", self._note_forward)
        self._guard.before(engine, "backward", self._note_backward)

    def start_from(self, step: int) -> None:
        """A load brought this step back."""
        self._base = self.done = self._begun = step

    def _note_engine(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        step = getattr(engine.optimizer, "step", None)
        if self._engine is not None or step is None:
            return
        self._engine = engine

        @functools.wraps(step)
        def counted_step(*args: Any, **kwargs: Any) -> Any:
            self._guard.call(self._note_step_begins)
            result = step(*args, **kwargs)
            self._guard.call(self._note_step)
            return result

        engine.optimizer.step = counted_step
        self._report(
            {
                "kind": "engine",
                "zero_stage": engine.zero_optimization_stage(),
                "total_steps": _total_steps(engine),
                "versions": _versions(),
            }
        )

    def _note_forward(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        """With ZeRO-3 a forward alone needs all ranks; below, only a backward does."""
        import torch  # noqa: PLC0415  imported long ago by the program

        is_training = engine.module.training and torch.is_grad_enabled()
        if is_training and engine.zero_optimization_stage() == 3:
            self._note_begun(engine)

    def _note_backward(self, engine: Any, loss: Any = None, *_args: Any, **_kwargs: Any) -> None:
        self._note_begun(engine)
        if engine is self._engine and self._rank == 0 and hasattr(loss, "detach"):
            self._loss = loss.detach()

    def _note_begun(self, engine: Any) -> None:
        if engine is self._engine and self._begun <= self.done:
            self._begun = self.done + 1
            self._report({"kind": "step", "done": self.done, "begun": self._begun})

    def _note_step_begins(self) -> None:
        self.before_step()

    def _note_step(self) -> None:
        self.done += 1
        self._begun = max(self._begun, self.done)
        now = time.monotonic()
        self._meter.add(now, self._engine.train_batch_size())
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


def _total_steps(engine: Any) -> int | None:
    total = (engine.scheduler_params() or {}).get("total_num_steps")
    return int(total) if total else None


def _versions() -> dict[str, str]:
    import deepspeed  # noqa: PLC0415  imported long ago by the program
    import torch  # noqa: PLC0415

    return {"torch": str(torch.__version__), "deepspeed": str(deepspeed.__version__)}
