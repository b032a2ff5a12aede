"""Which hooks go into a process: those of a rank, those of a driver program, or none.

Called by our sitecustomize before the program's first line.  A launcher below a command gets none:
it becomes our own, in whatever way it was called.
"""

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deepspeed_trainer.contract import PREEMPTION_SIGNAL_ENV
from deepspeed_trainer.hooks import stackdump
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.patching import PatchOnImport
from deepspeed_trainer.hooks.wire import (
    DESCENDANTS_ENV,
    ORDERS_FILE,
    PAGE_FILE,
    PROGRAM_ENV,
    SOCKET_ENV,
    STACKS_FILE,
    SUPERVISOR_ENV,
    Wire,
)

LAUNCHERS: Final = {
    "deepspeed": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed",
    "torchrun": "torchrun",
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torch.distributed.launch",
    "accelerate": "accelerate",
    "accelerate.commands.launch": "accelerate",
}
"""The launcher that a program's or a module's name stands for."""


def stand_in() -> None:
    """Become our own launcher where another one is about to run below a command."""
    words = find_launcher(sys.orig_argv) if DESCENDANTS_ENV in os.environ else None
    if words is not None:
        shim = [sys.executable, "-m", "deepspeed_trainer.rank.shim"]
        os.execv(sys.executable, [*shim, *words])  # noqa: S606  this Python, another program


def find_launcher(argv: Sequence[str]) -> list[str] | None:
    """Return the launcher and its words that a Python's command line starts, if it is one."""
    words = list(argv[1:])
    if "-c" in words[:1]:
        return None
    while words and words[0].startswith("-") and words[0] != "-m":
        words = words[2 if words[0] in {"-W", "-X"} else 1 :]
    if words[:1] == ["-m"]:
        name, *rest = words[1:] or [""]
        if name == "accelerate.commands.launch":
            rest = ["launch", *rest]
    else:
        path, *rest = words or [""]
        name = Path(path).name if "/bin/" in path else ""
    launcher = LAUNCHERS.get(name)
    if launcher is None or (launcher == "accelerate" and rest[:1] != ["launch"]):
        return None
    return [launcher, *rest]


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
    # A command per node reaches its ranks' sockets through links.
    folder = Path(path).resolve().parent
    open_page = functools.partial(Page.create, folder / PAGE_FILE)
    _install_stackdump(folder / STACKS_FILE)
    watch = EngineWatch(
        int(os.environ["RANK"]),
        wire.report,
        open_page,
        OrderPage.find(folder / ORDERS_FILE),
        os.environ.get(PREEMPTION_SIGNAL_ENV, ""),
    )
    PatchOnImport(watch.patches(makes_group=True), wire.report).install()
    if not goes_down:
        wire.connect()


def _install_stackdump(path: Path) -> None:
    """A rank without it is still trained, counted and watched; its stacks are not seen."""
    try:
        stackdump.install(path)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"deepspeed_trainer: no stack dumps of this rank: {error!r}\n")
