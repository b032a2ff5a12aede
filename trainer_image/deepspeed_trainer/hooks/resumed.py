"""What a program continues from, as its supervisor tells its hooks: in one environment variable."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from deepspeed_trainer.checkpoints.files import Stamp
from deepspeed_trainer.contract import RESUMED_ENV

_taken: set[str] = set()


@dataclass(frozen=True, slots=True)
class Resumed:
    """The checkpoint that was put where the program looks for it; all empty when there is none."""

    folder: str = ""
    """Where its tag lies, absolute."""
    tag: str = ""
    step: int = 0
    attempt: int = 0
    path: str = ""
    """The same checkpoint below the storage's root."""
    report: str = ""
    """The folder that ray.train.get_checkpoint answers."""
    adopted: bool = False
    """Whether another run had saved it."""
    batch: tuple[int, ...] = ()
    """Where another number of ranks had saved it: their global batch, and the micro batch and the
    accumulation that make it with the ranks of now."""

    others: Mapping[Path, Stamp] = field(default_factory=dict)
    """Files there, on a pod's own disk, that another rank had brought: for the supervisor alone."""

    def note_taken(self) -> None:
        """The program has loaded it, or has asked for the folder that holds it."""
        _taken.add(self.path)

    @property
    def is_ignored(self) -> bool:
        """Whether there is something to continue from and this process has not taken it."""
        return bool(self.path) and self.path not in _taken

    def to_env(self) -> dict[str, str]:
        """Return the environment variable; none when there is nothing to tell."""
        told = asdict(replace(self, others={}))
        return {RESUMED_ENV: json.dumps(told)} if self.path else {}

    @classmethod
    def from_env(cls) -> Self:
        """Read this process' variable."""
        return cls(**json.loads(os.environ.get(RESUMED_ENV, "{}")))
