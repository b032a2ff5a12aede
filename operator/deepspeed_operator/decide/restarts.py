"""Restarts of ranks inside an attempt: what a head tells of them, counted into the run's own.

The head counts from the start of its attempt.  What status already holds of them is taken off, so a
restart is counted once, whoever reads it how often.
"""

from dataclasses import dataclass

from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import Failure
from deepspeed_operator.decide.actions import Event
from deepspeed_operator.decide.status import MAX_MESSAGE
from deepspeed_operator.decide.view import View
from deepspeed_trainer import contract


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often ranks were started again, and what is new of it."""

    of_attempt: int
    of_run: int
    failure: Failure | None = None
    """Why it last happened, when status does not hold that yet."""
    events: tuple[Event, ...] = ()


def derive_restarts(view: View, progress: contract.Progress | None) -> Restarts:
    """Return the counts that status should hold, from those that it holds and what a head says."""
    attempt = view.open_attempt
    known = attempt.restarts if attempt is not None else 0
    # A board that lost its memory counts from zero; what was counted stays.
    new = 0 if progress is None else progress.restarts - known
    if new <= 0 or progress is None or attempt is None:
        return Restarts(known, view.status.restarts)
    total = view.status.restarts + new
    if not progress.last_restarts:
        return Restarts(progress.restarts, total)
    last = progress.last_restarts[-1]
    message = (
        f"attempt {attempt.number}: {last.message} ({last.cause}, step {last.step}); its ranks were"
        f" started again, restart {total} of {view.spec.failure_policy.max_restarts}"
    )
    return Restarts(
        progress.restarts,
        total,
        Failure(
            cause=last.cause, message=last.message[:MAX_MESSAGE], rank=last.rank, node=last.node
        ),
        (Event(type="Warning", reason=Reason.RANKS_RESTARTED, message=message[:1024]),),
    )
