"""Import hooks in a rank's process: where the program's steps, saves and loads can be seen.

Modules are patched right after they were imported, so a program needs no line for us.  A patch that
fails is reported as a fact and the program goes on without it: hooks never break training.  What is
patched is in `engine_hook`; this module knows imports and the wire to the supervisor alone.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from typing_extensions import override

SOCKET_ENV: Final = "DSJOB_HOOK_SOCKET"
SUPERVISOR_ENV: Final = "DSJOB_SUPERVISOR_PID"

Report = Callable[[Mapping[str, Any]], None]
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


class Wire:
    """Facts to the supervisor as JSON lines over a unix socket.

    `saving` waits for the supervisor's word; everything else is sent and forgotten.  Once broken it
    stays broken, with one warning.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30.0)
        self._socket.connect(path)
        self._answers = self._socket.makefile("rb")

    def report(self, fact: Mapping[str, Any]) -> None:
        """Send a fact."""
        with self._lock:
            if self._socket is None:
                return
            try:
                self._socket.sendall(json.dumps(fact).encode() + b"\n")
                if fact["kind"] == "saving" and not self._answers.readline():
                    raise ConnectionError("the supervisor is gone")
            except (OSError, ValueError) as error:
                sys.stderr.write(f"deepspeed_trainer: progress unavailable: {error}\n")
                self._socket = None


def install_in_rank() -> None:
    """Install the hooks in the process that a supervisor started; its own children are left alone.

    Called by our sitecustomize before the program's first line.
    """
    path = os.environ.get(SOCKET_ENV)
    if path is None or os.environ.get(SUPERVISOR_ENV) != str(os.getppid()):
        return
    from deepspeed_trainer.engine_hook import patches  # noqa: PLC0415  not in every python process

    wire = Wire(path)
    rank = int(os.environ["RANK"])
    PatchOnImport(patches(rank, wire.report, in_process=False), wire.report).install()
    wire.report({"kind": "hook"})
