"""How fetching ends when it does not work: for good, or for now.

Messages go to the job's status, so they name the field and hold no secret; whoever makes one from
the words of another program cleans them first.
"""

from typing import Final

from deepspeed_trainer.contract import REFUSED, UNAVAILABLE, CodeFault

_WORDS: Final = 300


class CodeError(Exception):
    """The code cannot be had."""

    reason: str = UNAVAILABLE

    @property
    def fault(self) -> CodeFault:
        """What the operator is told."""
        return CodeFault(self.reason, str(self))


class CodeRefused(CodeError):
    """Trying again is in vain."""

    reason = REFUSED


class CodeUnavailable(CodeError):
    """It may work later."""


def clean(words: str, secrets: tuple[str, ...] = ()) -> str:
    """Return another program's words on one line, bounded, without what they may repeat of ours."""
    for secret in secrets:
        if secret:
            words = words.replace(secret, "***")
    line = " ".join(words.split())
    return "".join(c for c in line if c.isprintable())[:_WORDS]
