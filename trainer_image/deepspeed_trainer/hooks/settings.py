"""A word about a DeepSpeed configuration that has "auto" where DeepSpeed needs a value.

Transformers and Accelerate fill it in before they make the engine; DeepSpeed itself compares it
with numbers at some time, and ends with an error that does not name the key.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.wire import Report


class SettingsWatch:
    """Looks at the configuration that a rank makes an engine of."""

    def __init__(self, rank: int, report: Report) -> None:
        self._rank = rank
        self._report = report

    def patch(self, module: ModuleType) -> None:
        """Wrap deepspeed.initialize; all ranks have the same configuration, one says it."""
        if self._rank != 0:
            return
        signature = inspect.signature(module.initialize)

        def look(*args: Any, **kwargs: Any) -> None:
            self._look(signature.bind(*args, **kwargs).arguments)

        Guard(self._report).before(module, "initialize", look)

    def _look(self, given: Mapping[str, Any]) -> None:
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
