"""Patches on modules of other packages, made right after they were imported.

So a program needs no line for us.  A patch that fails is reported as a fact and the program goes on
without it: hooks never break training.  Which modules are patched, and how, is said elsewhere.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from typing_extensions import override

from deepspeed_trainer.hooks.wire import Report

Patch = Callable[[ModuleType], None]


class PatchOnImport(importlib.abc.MetaPathFinder):
    """Runs a patch once, right after its module was executed (or now, if it already was)."""

    def __init__(self, patches: Mapping[str, Patch], report: Report) -> None:
        self._patches = dict(patches)
        self._report = report

    def install(self) -> None:
        """Put this first on sys.meta_path and patch what is already imported."""
        sys.meta_path.insert(0, self)
        for name in [name for name in self._patches if name in sys.modules]:
            self._run(self._patches.pop(name), sys.modules[name])

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with a loader that patches after executing."""
        patch = self._patches.pop(fullname, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(fullname)  # the pop above keeps this from coming back here
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            self._run(patch, module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec

    def _run(self, patch: Patch, module: ModuleType) -> None:
        try:
            patch(module)
        except Exception as error:  # noqa: BLE001  a hook must never break training
            sys.stderr.write(f"deepspeed_trainer: no hook on {module.__name__}: {error!r}\n")
            self._report({"kind": "hook", "failure": f"{module.__name__}: {error!r}"[:500]})
