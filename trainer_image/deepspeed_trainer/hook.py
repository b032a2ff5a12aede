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
from typing import Any, BinaryIO, Final

from typing_extensions import override

SOCKET_ENV: Final = "DSJOB_HOOK_SOCKET"
SUPERVISOR_ENV: Final = "DSJOB_SUPERVISOR_PID"
PROGRAM_ENV: Final = "DSJOB_DRIVER_PROGRAM"
"""Set for the process of a driver program, which is no rank."""
RESUME_ENV: Final = "DSJOB_RESUME_FROM"
"""For the ranks of a driver program: the folder that answers ray.train.get_checkpoint."""
DESCENDANTS_ENV: Final = "DSJOB_HOOK_DESCENDANTS"
"""Set for a command, which may start Python itself: hooks go into all that it starts."""

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
    """Facts to the supervisor as JSON lines over a unix socket; the first fact is `hook`.

    It connects when there is something to say.  `saving` waits for the supervisor's word;
    everything else is sent and forgotten.  Once broken it stays broken, with one warning.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._answers: BinaryIO | None = None
        self._is_broken = False

    def connect(self) -> None:
        """Say that the hooks are in place."""
        with self._lock:
            self._try(self._open)

    def report(self, fact: Mapping[str, Any]) -> None:
        """Send a fact."""
        with self._lock:
            self._try(lambda: self._send(fact))

    def _try(self, act: Callable[[], object]) -> None:
        if self._is_broken:
            return
        try:
            act()
        except (OSError, ValueError) as error:
            sys.stderr.write(f"deepspeed_trainer: progress unavailable: {error}\n")
            self._is_broken = True

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(30.0)
            self._socket.connect(self._path)
            self._answers = self._socket.makefile("rb")
            self._socket.sendall(b'{"kind": "hook"}\n')
        return self._socket

    def _send(self, fact: Mapping[str, Any]) -> None:
        self._open().sendall(json.dumps(fact).encode() + b"\n")
        if fact["kind"] == "saving" and not (self._answers and self._answers.readline()):
            raise ConnectionError("the supervisor is gone")


def install() -> None:
    """Install the hooks in the process that a supervisor started; its own children are left alone.

    A command's children are not: which of them trains is not known before it does.  Called by our
    sitecustomize before the program's first line.
    """
    path = os.environ.get(SOCKET_ENV)
    goes_down = DESCENDANTS_ENV in os.environ
    is_child = os.environ.get(SUPERVISOR_ENV) == str(os.getppid())
    if path is None or not (is_child or goes_down):
        return
    if PROGRAM_ENV in os.environ:
        from deepspeed_trainer import program_hook  # noqa: PLC0415  not in every process

        program_hook.install()
    else:
        _install_in_rank(path, goes_down=goes_down)


def _install_in_rank(path: str, *, goes_down: bool) -> None:
    from deepspeed_trainer.engine_hook import EngineWatch  # noqa: PLC0415  not in every process

    wire = Wire(path)
    watch = EngineWatch(int(os.environ["RANK"]), wire.report)
    PatchOnImport(watch.patches(makes_group=True), wire.report).install()
    if not goes_down:
        wire.connect()
