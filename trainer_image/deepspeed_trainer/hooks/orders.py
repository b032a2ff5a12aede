"""Saves that the head asks for, in the program: all ranks save after the same optimizer step.

A rank answers once whether the named step is still ahead of it.  One that reaches it waits there
until all have agreed; otherwise a rank that had passed the step would wait in its next collective
for one that saves.  Who saves is the program's own saver (see `offer`).  After that the rank takes
no further step: it waits until it is ended.
"""

import functools
import signal
from collections.abc import Callable
from time import sleep
from types import ModuleType
from typing import Any, Final

from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.saves import SaveWatch
from deepspeed_trainer.hooks.steps import StepWatch
from deepspeed_trainer.hooks.wire import Report

LOOK_EVERY_S: Final = 0.02


class SaveOrders:
    """The orders to one rank; used from the thread that trains."""

    def __init__(
        self,
        report: Report,
        steps: StepWatch,
        saves: SaveWatch,
        page: OrderPage | None,
        signal_name: str = "",
    ) -> None:
        """`signal_name` is the signal on which the program saves, empty for none."""
        self._report = report
        self._guard = Guard(report)
        self._steps = steps
        self._saves = saves
        self._page = page
        self._signal = signal.Signals[signal_name] if signal_name else None
        self._offered = ""
        self._answered = 0
        self._signalled = 0
        self._depth = 0
        steps.before_counted_step = self._note_step_begins
        steps.after_counted_step = self._note_step
        steps.between_steps = self._between_steps

    # For savers.

    def offer(self, saver: str) -> None:
        """The program can save when it is asked to; an empty name takes that back."""
        if saver != self._offered:
            self._offered = saver
            self._report({"kind": "saver", "name": saver})

    def is_due(self) -> bool:
        """Return whether to save now, between two steps; waits for the other ranks' word."""
        if self._page is None:
            return False
        done = self._steps.done
        self._answer(done)
        while self._page.save_at == done > 0:
            if self._page.agreed == done:
                return True
            sleep(LOOK_EVERY_S)
        return False

    def hold(self) -> None:
        """The save is made: let it be brought to the storage, and do no more."""
        page, done = self._page, self._steps.done
        assert page is not None  # noqa: S101  it has named a step
        self._saves.close()
        self._report({"kind": "held", "step": done})
        while page.save_at == done:
            sleep(LOOK_EVERY_S)

    def meet(self, save: Callable[[], None]) -> None:
        """Save and hold if this is the named step; a save that the program made is good too."""
        if self.is_due():
            if not self._saves.has_saved(self._steps.done):
                save()
            self.hold()

    # What is patched.

    def patch_engine(self, engine: Any) -> None:
        """Let the class DeepSpeedEngine be asked for these orders, and follow its steps."""
        engine.dsjob_orders = self
        step = engine.step

        @functools.wraps(step)
        def step_and_look(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                result = step(*args, **kwargs)
            finally:
                self._depth -= 1
            self._between_steps()
            return result

        engine.step = step_and_look

    def patch_transformers(self, module: ModuleType) -> None:
        """Let Transformers' Trainer save by its own means."""
        self._guard.before(module.CallbackHandler, "on_train_begin", self._offer_trainer)
        self._guard.after(module.DefaultFlowCallback, "on_step_end", self._ask_trainer)
        self._guard.after(module.CallbackHandler, "on_save", self._note_trainer_saved)

    def _offer_trainer(self, *_: Any, **__: Any) -> None:
        self.offer("transformers.Trainer")

    def _ask_trainer(self, _callback: Any, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        if self.is_due():
            control.should_save = True

    def _note_trainer_saved(self, *_: Any, **__: Any) -> None:
        if self.is_due():
            self.hold()

    # Steps.

    def _answer(self, done: int) -> None:
        """Say once of each named step whether it is still ahead."""
        named = self._page.save_at if self._page is not None else 0
        if named in (0, self._answered):
            return
        self._answered = named
        self._report({"kind": "armed" if done <= named else "late", "step": named})

    def _note_step(self) -> None:
        if self._signal is not None and callable(signal.getsignal(self._signal)):
            self.offer(f"a handler of {self._signal.name}")
        self._answer(self._steps.done)

    def _between_steps(self) -> None:
        """Let the program's own handler save, once DeepSpeed has counted the step.

        Some programs step the optimizer themselves; then there is nothing to wait for.
        """
        is_inside = self._depth > 0
        if self._signal is not None and not is_inside and self._guard.call(self._takes_signal):
            signal.raise_signal(self._signal)

    def _takes_signal(self) -> bool:
        done = self._steps.done
        if self._signalled == done or not self.is_due():
            return False
        self._signalled = done
        self._report({"kind": "signalled", "step": done})
        return True

    def _note_step_begins(self) -> None:
        """No rank goes beyond the step that all have agreed to."""
        if self.is_due():
            self.hold()
