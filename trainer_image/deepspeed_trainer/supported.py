"""What the trainer runs on: a range of Python, torch, DeepSpeed and Ray, each end of it shown.

Run as a file, by whatever Python an image has, before anything of the trainer is imported: it says
what does not fit and ends with 1.  So it keeps to what Python 3.8 can read, and to the standard
library.  The trainer's own image needs no such look.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RANGES: Final = {
    "Python": ((3, 11), (3, 11)),
    "torch": ((2, 13), (2, 13)),
    "deepspeed": ((0, 19), (0, 19)),
    "ray": ((2, 60), (2, 60)),
}
"""Oldest and newest release series of each: every release within a series counts."""

RAY_PARTS: Final = ("aiohttp", "aiohttp_cors", "fsspec", "pyarrow")
"""Modules that only Ray's extras `default` and `train` bring."""
PARTS: Final = {
    "--buckets": ("obstore", "spec.storage.uri", "use spec.storage.volumeClaim"),
    "--export": ("safetensors", "spec.checkpoint.export", "remove the field"),
}
"""What a part of the job's spec needs besides, by the argument that stands for it."""
ADVICE: Final = "use an image in range, or one built on the trainer image (docs/images.md)"


def find_fault(
    read: Callable[[str], str | None], has: Callable[[str], bool], parts: Iterable[str]
) -> str | None:
    """Return what an image lacks, as one sentence; None when the trainer can run in it.

    `read` returns the version of a package, or None; `has` says whether a module is there,
    and `parts` are keys of PARTS.
    """
    for name, (oldest, newest) in RANGES.items():
        found = read(name)
        wanted = _describe(oldest, newest)
        if found is None:
            return f"this image has no {name}, the trainer needs {wanted}: {ADVICE}"
        if not oldest <= _series(found) <= newest:
            return f"this image has {name} {found}, the trainer needs {wanted}: {ADVICE}"
    lacking = [module for module in RAY_PARTS if not has(module)]
    if lacking:
        return (
            f"this image's Ray lacks {', '.join(lacking)}: install ray[default,train] in it,"
            " without which Ray serves no jobs and trains nothing"
        )
    for module, field, other in (PARTS[part] for part in parts):
        if not has(module):
            return (
                f"this image has no {module}, which {field} needs: install {module} in it, {other},"
                " or use an image built on the trainer image"
            )
    return None


def _series(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _describe(oldest: tuple[int, ...], newest: tuple[int, ...]) -> str:
    first, last = (".".join(map(str, series)) for series in (oldest, newest))
    return f"{first}.x" if first == last else f"{first}.x to {last}.x"


def _read(name: str) -> str | None:
    if name == "Python":
        return ".".join(map(str, sys.version_info[:3]))
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def main() -> int:
    """Return 1 after saying what does not fit."""
    fault = find_fault(_read, _has, sys.argv[1:])
    if fault is None:
        return 0
    sys.stderr.write(f"{fault}; its Python is {sys.executable}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
