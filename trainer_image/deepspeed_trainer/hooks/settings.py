"""A word about a DeepSpeed configuration that DeepSpeed could not read.

"auto" at the top level is filled in by Transformers and Accelerate; DeepSpeed itself compares it
with numbers and ends with an error that does not name the key.
"""

import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.wire import Report


class SettingsWatch:
    """Looks at the configuration of an engine that could not be made."""

    def __init__(self, rank: int, report: Report) -> None:
        self._rank = rank
        self._report = report
        self._guard = Guard(report)

    def patch(self, module: ModuleType) -> None:
        """Wrap deepspeed.initialize; all ranks have the same configuration, one says it."""
        original = module.initialize
        signature = inspect.signature(original)

        @functools.wraps(original)
        def initialize(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except Exception:
                if self._rank == 0:
                    self._guard.call(self._explain, signature, *args, **kwargs)
                raise

        setattr(module, "initialize", initialize)  # noqa: B010  a module has no such type

    def _explain(self, signature: inspect.Signature, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        config = given.get("config") or given.get("config_params")
        config = config or getattr(given.get("args"), "deepspeed_config", None)
        if isinstance(config, str | Path) and Path(config).is_file():
            config = json.loads(Path(config).read_text())
        if not isinstance(config, Mapping):
            return
        unset = [key for key, value in config.items() if value == "auto"]
        if unset:
            message = (
                f'the DeepSpeed configuration has "auto" for {", ".join(unset)}: Transformers and'
                " Accelerate fill that in, DeepSpeed itself needs a value"
            )
            self._report({"kind": "advice", "message": message})
