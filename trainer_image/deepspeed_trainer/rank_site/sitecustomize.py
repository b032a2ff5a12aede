# ruff: noqa: INP001  a folder on PYTHONPATH, not a package
"""First on the PYTHONPATH of a rank, or of a driver program: ties it to who started it, and hooks.

Then it runs the sitecustomize that it hides, if there is one.  It is in effect in the process that
the supervisor started and in none of that process's own children.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path


def _chain() -> None:
    """Run the sitecustomize that would have been found without this folder."""
    here = str(Path(__file__).parent)
    others = [entry for entry in sys.path if entry != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _install() -> None:
    try:
        from deepspeed_trainer import hook, tether  # noqa: PLC0415  a failure must not escape

        hook.stand_in()
        tether.die_with_supervisor()
        hook.install()
    except Exception as error:  # noqa: BLE001  a hook must never break training
        sys.stderr.write(f"deepspeed_trainer: no hooks in this rank: {error!r}\n")


_install()
_chain()
