"""Which hooks go into a process: those of a rank, those of a driver program, or none.

Called by our sitecustomize before the program's first line.
"""

import os

from deepspeed_trainer.hooks.patching import PatchOnImport
from deepspeed_trainer.hooks.wire import (
    DESCENDANTS_ENV,
    PROGRAM_ENV,
    SOCKET_ENV,
    SUPERVISOR_ENV,
    Wire,
)


def install() -> None:
    """Install the hooks in the process that a supervisor started; its own children are left alone.

    A command's children are not: which of them trains is not known before it does.
    """
    path = os.environ.get(SOCKET_ENV)
    goes_down = DESCENDANTS_ENV in os.environ
    is_child = os.environ.get(SUPERVISOR_ENV) == str(os.getppid())
    if path is None or not (is_child or goes_down):
        return
    if PROGRAM_ENV in os.environ:
        from deepspeed_trainer.driver import fitting  # noqa: PLC0415  not in every process

        fitting.install()
    else:
        _install_in_rank(path, goes_down=goes_down)


def _install_in_rank(path: str, *, goes_down: bool) -> None:
    from deepspeed_trainer.hooks.engine import EngineWatch  # noqa: PLC0415  not in every process

    wire = Wire(path)
    watch = EngineWatch(int(os.environ["RANK"]), wire.report)
    PatchOnImport(watch.patches(makes_group=True), wire.report).install()
    if not goes_down:
        wire.connect()
