"""Wrapping methods of other packages without harm: our failure is a fact, never the program's."""

import functools
from collections.abc import Callable
from typing import Any

from deepspeed_trainer.hooks.wire import Report


class Guard:
    """Calls our own code beside a program's."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def after(self, owner: Any, name: str, note: Callable[..., None]) -> None:
        """Call `note` with the same arguments after a method returned."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.call(note, *args, **kwargs)
            return result

        setattr(owner, name, wrapped)

    def before(self, owner: Any, name: str, note: Callable[..., None]) -> None:
        """Call `note` with the same arguments before a method runs."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.call(note, *args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    def call(self, note: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call our own code; its failure becomes a fact, never the program's."""
        try:
            return note(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  a hook must never break training
            self._report({"kind": "hook", "failure": f"{note.__name__}: {error!r}"[:500]})
            return None
