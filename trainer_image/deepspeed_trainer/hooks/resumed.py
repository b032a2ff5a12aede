"""What a program continues from, as its supervisor tells its hooks: in one environment variable."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Final, Self

RESUMED_ENV: Final = "DSJOB_RESUMED"


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

    def to_env(self) -> dict[str, str]:
        """Return the environment variable; none when there is nothing to tell."""
        return {RESUMED_ENV: json.dumps(asdict(self))} if self.path else {}

    @classmethod
    def from_env(cls) -> Self:
        """Read this process' variable."""
        return cls(**json.loads(os.environ.get(RESUMED_ENV, "{}")))
