"""What can be done about a failure: nothing, other ranks in the same pods, or another attempt.

One table for both sides of the wall: the board restarts ranks by it, the operator opens attempts by
it.  Also how long both wait.  Part of the wall; import it from `contract`.
"""

from enum import StrEnum
from typing import Final

from deepspeed_trainer.progress import Cause

LONGEST_BACKOFF_S: Final = 600


class Remedy(StrEnum):
    """How a run goes on after a failure."""

    NONE = "None"
    """Not at all: the same program on the same image meets the same again."""
    RANKS = "Ranks"
    """The ranks are started again where they are: the pods are healthy."""
    ATTEMPT = "Attempt"
    """By another attempt: what surrounds the ranks has to be made anew or looked at first."""


REMEDIES: Final = {
    Cause.USER_ERROR: Remedy.RANKS,
    Cause.SIGNAL: Remedy.RANKS,
    Cause.OUT_OF_MEMORY: Remedy.RANKS,
    Cause.EARLY_EXIT: Remedy.RANKS,
    Cause.HANG: Remedy.RANKS,
    Cause.IMPORT_FAILED: Remedy.NONE,
    Cause.NO_PROCESS_GROUP: Remedy.NONE,
    Cause.WRONG_WORLD_SIZE: Remedy.NONE,
    Cause.CONTRACT_INVALID: Remedy.NONE,
    Cause.RESUME_IGNORED: Remedy.NONE,
    Cause.WORLD_SIZE_CHANGED: Remedy.NONE,
    Cause.NO_SUCH_CHECKPOINT: Remedy.NONE,
    Cause.WRONG_BATCH_SIZE: Remedy.NONE,
    Cause.SUPERSEDED: Remedy.NONE,
    Cause.PLACEMENT: Remedy.ATTEMPT,
    Cause.RANKS_MISSING: Remedy.ATTEMPT,
    Cause.POD_LOST: Remedy.ATTEMPT,
    Cause.WRONG_HEAD: Remedy.ATTEMPT,
    Cause.STORAGE: Remedy.ATTEMPT,
    Cause.PREEMPTED: Remedy.ATTEMPT,
    Cause.STOPPED: Remedy.ATTEMPT,
    Cause.TRAINER_ERROR: Remedy.ATTEMPT,
}
"""Every cause has its row; a test sees to it."""

FREE: Final = frozenset({Cause.PREEMPTED})
"""Causes that are nobody's failure: what follows them is not counted, and there is no wait."""


def derive_backoff_s(first_s: int, waits_before: int) -> float:
    """Return the wait that follows so many waits: each is twice the one before, to ten minutes."""
    return float(min(first_s * 2 ** min(waits_before, 20), LONGEST_BACKOFF_S))
