"""Where frameworks end a save of their own, so that it need not stay open until the next step.

They write random states, schedules and their own records after the engine's save, and when their
method returns nothing is added any more.  Named here alone, and tried against the real libraries
in tests/trainer.  In Ray's own workers none of it is patched: what a program saves there may be
handed to ray.train.report next, and the report is the save then.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, Final

from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.patching import Patch

ENDS: Final = {
    "accelerate.accelerator": ("Accelerator", "save_state"),
    "lightning.pytorch.trainer.trainer": ("Trainer", "save_checkpoint"),
    "pytorch_lightning.trainer.trainer": ("Trainer", "save_checkpoint"),
    "transformers.trainer_callback": ("CallbackHandler", "on_save"),
}
"""Class and method by module."""


def end_patches(guard: Guard, close: Callable[[], None]) -> Mapping[str, Patch]:
    """Return patches by module name: `close` is called when a framework's save has ended."""
    return {name: partial(_patch, guard, close, *where) for name, where in ENDS.items()}


def _patch(
    guard: Guard, close: Callable[[], None], owner: str, method: str, module: ModuleType
) -> None:
    def end_save(*_args: Any, **_kwargs: Any) -> None:
        close()

    guard.after(getattr(module, owner), method, end_save)
