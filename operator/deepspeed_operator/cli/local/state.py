"""The state of a local run, written as the operator would write it into status. Pure.

So that one renderer shows a local run and a job in a cluster alike.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from deepspeed_operator.api import names
from deepspeed_operator.api.names import Phase, Reason
from deepspeed_operator.cli.local.plan import Plan
from deepspeed_operator.cli.picture import Job
from deepspeed_operator.decide.status import (
    Outlook,
    derive_failure,
    derive_progress,
    format_time,
    revise,
)
from deepspeed_trainer.contract import Progress, RunPhase


class Stage(StrEnum):
    """Where the processes are."""

    RAY = "Ray"
    """Ray is being started."""
    DRIVER = "Driver"
    """The driver was started."""
    OVER = "Over"
    """The driver has ended."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known at one moment."""

    stage: Stage
    progress: Progress | None = None
    exit_code: int | None = None
    trouble: str | None = None
    """Why Ray or the driver did not start."""


def derive_job(plan: Plan, seen: Seen, now: datetime) -> Job:
    """Return the job as the API server would hold it."""
    view, progress = replace(plan.view, now=now), seen.progress
    outlook = _derive_outlook(plan, seen)
    over = outlook.complete or outlook.failed
    changes: dict[str, Any] = {
        **derive_progress(view, progress, now),
        "start_time": plan.attempt.start_time,
        "finish_time": format_time(now) if over else None,
        "attempts": [_derive_attempt(plan, seen, outlook, now)],
    }
    if outlook.failed:
        found = None if progress is None else progress.failure
        changes["failure"] = derive_failure(outlook.reason, outlook.message, found)
    status = revise(view, outlook, **changes)
    key = view.job.key
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": key.name, "namespace": key.namespace, "generation": 1},
        "spec": dict(view.job.spec),
        "status": status.model_dump(by_alias=True, exclude_none=True, mode="json"),
    }


def _derive_outlook(plan: Plan, seen: Seen) -> Outlook:
    order, progress = plan.contract, seen.progress
    if seen.stage is Stage.OVER or seen.trouble is not None:
        return _derive_end(seen)
    if progress is None or progress.phase in (RunPhase.STARTING, RunPhase.WAITING_FOR_RANKS):
        started = seen.stage is not Stage.RAY
        reason = Reason.SUBMITTING if started else Reason.CLUSTER_STARTING
        text = (
            f"Ray is up; the driver starts {order.world_size} ranks"
            if started
            else f"a private Ray starts on this machine: a head and {order.nodes} workers"
        )
        return Outlook(phase=Phase.STARTING, reason=reason, message=text, reconciling=True)
    text = f"attempt {order.attempt} runs {order.world_size} ranks on {order.nodes} local workers"
    return Outlook(
        phase=Phase.RUNNING, reason=Reason.RUNNING, message=text, cluster_ready=True, running=True
    )


def _derive_end(seen: Seen) -> Outlook:
    progress = seen.progress
    if seen.exit_code == 0 and seen.trouble is None:
        text = "every rank ended with exit code 0"
        return Outlook(phase=Phase.SUCCEEDED, reason=Reason.SUCCEEDED, message=text, complete=True)
    failure = None if progress is None else progress.failure
    if failure is not None:
        text = f"{failure.cause}: {failure.message}"
    else:
        text = seen.trouble or f"the driver ended with exit code {seen.exit_code}"
    return Outlook(
        phase=Phase.FAILED, reason=Reason.RUN_FAILED, message=text, ready=False, failed=True
    )


def _derive_attempt(plan: Plan, seen: Seen, outlook: Outlook, now: datetime) -> Any:
    progress = seen.progress
    changes: dict[str, Any] = {"state": "Running" if outlook.running else "Submitting"}
    if outlook.complete or outlook.failed:
        state = "Succeeded" if outlook.complete else "Failed"
        changes |= {"state": state, "finish_time": format_time(now)}
    if progress is not None:
        changes["first_step"] = progress.first_step
        if progress.resumed_from is not None:
            changes["resumed_from_step"] = progress.resumed_from.step
        if progress.failure is not None:
            changes["cause"] = progress.failure.cause
    return plan.attempt.model_copy(update=changes)
