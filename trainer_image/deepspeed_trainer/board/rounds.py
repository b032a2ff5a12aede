"""The rounds of an attempt: how often its ranks may start again, when, and why they did. Pure.

A round is from the ranks' hello to the end of the last of them.  The first restart follows at once,
because most failures pass; each further one waits twice as long as the one before.
"""

from collections import deque

from deepspeed_trainer.contract import REMEDIES, Remedy, RunContract, derive_backoff_s
from deepspeed_trainer.progress import (
    MAX_RESTART_CHARS,
    MAX_RESTARTS_SHOWN,
    Cause,
    Failure,
    Restart,
)


class Rounds:
    """The budget that the operator handed to the attempt, and what it was spent on."""

    def __init__(self, contract: RunContract) -> None:
        self._contract = contract
        self.number = 0
        """The round that is on: how often the ranks were started again."""
        self.due_at = 0.0
        """When its ranks may start, in the time that `begin` was given."""
        self.last: deque[Restart] = deque(maxlen=MAX_RESTARTS_SHOWN)

    def may_follow(self, failure: Failure) -> bool:
        """Return whether the ranks may be started again after this failure."""
        if self.number >= self._contract.restarts_left:
            return False
        # Where Ray's worker is the rank, it can be lost though its pod is not; the driver has
        # looked for the pods.
        is_rank = self._contract.entrypoint.kind.is_in_process and failure.cause is Cause.POD_LOST
        return is_rank or REMEDIES[failure.cause] is Remedy.RANKS

    def begin(self, failure: Failure, step: int, now: float) -> float:
        """Begin the next round and return the seconds until its ranks may start."""
        first_s = self._contract.backoff_s
        wait_s = derive_backoff_s(first_s, self.number - 1) if self.number else 0.0
        self.number += 1
        self.due_at = now + wait_s
        message = failure.message[:MAX_RESTART_CHARS]
        self.last.append(
            Restart(now, failure.cause, message, failure.rank, failure.node, step=step)
        )
        return wait_s
