"""Where frameworks begin and end a save of their own, so that it need not stay open till a step.

They write random states, schedules and their own records after the engine's save, and when their
method returns nothing is added any more.  A rank that ends badly before that has half a save.
Named here alone, and tried against the real libraries in tests/trainer.
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
BEGINS: Final = {"transformers.trainer": ("Trainer", "_save_checkpoint")}
"""Those that begin a save which another method ends; a private name, left alone where absent."""


def end_patches(
    guard: Guard, begin: Callable[[str], None], end: Callable[[], None]
) -> Mapping[str, Patch]:
    """Return patches by module name.

    `begin` is called with the name of a framework's method before it runs, `end` when a framework's
    save has ended.
    """

    def patch_begin(owner: str, method: str, module: ModuleType) -> None:
        def begin_save(*_args: Any, **_kwargs: Any) -> None:
            begin(f"{owner}.{method}")

        if hasattr(getattr(module, owner, None), method):
            guard.before(getattr(module, owner), method, begin_save)

    def patch_both(owner: str, method: str, module: ModuleType) -> None:
        def end_save(*_args: Any, **_kwargs: Any) -> None:
            end()

        guard.after(getattr(module, owner), method, end_save)
        patch_begin(owner, method, module)

    begins = {name: partial(patch_begin, *where) for name, where in BEGINS.items()}
    return {**begins, **{name: partial(patch_both, *where) for name, where in ENDS.items()}}
