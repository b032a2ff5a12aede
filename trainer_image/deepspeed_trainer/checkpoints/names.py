"""What a checkpoint's folder is called: its step, the attempt that made it, the number of its save.

The same on all ranks, because they save in step.  Pure.
"""

import re
from collections.abc import Iterable
from typing import Final

CHECKPOINTS: Final = "checkpoints"
"""Folder of a run's checkpoints, below the run's own."""
_NAME: Final = re.compile(r"step-\d{8,}-a(\d+)-(\d+)(?:-converted-[a-z]+)?")


def name_checkpoint(step: int, attempt: int, number: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}-a{attempt}-{number}"


def name_converted(step: int, attempt: int, kind: str) -> str:
    """Return the name of a converted copy's folder; an attempt makes it before its first save."""
    return f"{name_checkpoint(step, attempt, 0)}-converted-{kind}"


def find_litter(names: Iterable[str], attempt: int, below: int) -> list[str]:
    """Return folders that an attempt may clear: of attempts before, and its own before a number.

    What counts is among them; a folder with a name that is not ours never is.
    """
    found = ((name, _NAME.fullmatch(name)) for name in names)
    return [
        name for name, match in found if match and (int(match[1]), int(match[2])) < (attempt, below)
    ]
