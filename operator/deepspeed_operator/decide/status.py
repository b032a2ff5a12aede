"""How a job's status is written: conditions in kstatus meaning, phase, progress, failure.

An Outlook says in one place what a state means for every condition.  Nothing here decides which
state it is.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deepspeed_operator.api.names import ConditionType, Phase, Reason
from deepspeed_operator.api.types import (
    CheckpointStatus,
    ClusterStatus,
    Condition,
    ConditionStatus,
    DeepSpeedJobStatus,
    Failure,
    Metric,
    ProgressStatus,
)
from deepspeed_operator.decide.actions import Event, EventType
from deepspeed_operator.decide.view import View
from deepspeed_trainer import contract

MAX_MESSAGE = 2048
FULL_ADVICE = (
    "the newest save was skipped, training goes on: make room on the job's storage or enlarge it;"
    " spec.checkpoint.keep lets older checkpoints go"
)

QUIET_REASONS = {
    ConditionType.COMPLETE: Reason.NOT_FINISHED,
    ConditionType.FAILED: Reason.NOT_FINISHED,
    ConditionType.FINISHED: Reason.NOT_FINISHED,
}
"""Reasons of conditions that do not hold; the others take the reason of the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A state of a job and what it means for the conditions."""

    phase: Phase
    reason: Reason
    message: str
    ready: bool = True
    """As intended: queued, starting or running counts."""
    reconciling: bool = False
    stalled: bool = False
    cluster_ready: bool = False
    running: bool = False
    complete: bool = False
    failed: bool = False


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in whole seconds, as Kubernetes stores times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Return the moment that `format_time` wrote."""
    return datetime.fromisoformat(text)


def revise(view: View, outlook: Outlook, **changes: Any) -> DeepSpeedJobStatus:
    """Return the whole new status: the one that was read, with the outlook and the changes."""
    return view.status.model_copy(
        update={
            "observed_generation": view.job.generation,
            "phase": outlook.phase,
            "conditions": _derive_conditions(view, outlook),
            "cluster": derive_cluster(view),
            "world_size": view.world_size,
            **changes,
        }
    )


def derive_event(view: View, outlook: Outlook) -> tuple[Event, ...]:
    """Return the Events of transitions: when the reason of Ready turns, and of older runs."""
    older, before = _derive_older_event(view), view.condition(ConditionType.READY)
    if before is not None and before.reason == outlook.reason:
        return older
    kind: EventType = "Normal" if outlook.ready else "Warning"
    return (Event(type=kind, reason=outlook.reason, message=outlook.message[:1024]), *older)


def _derive_older_event(view: View) -> tuple[Event, ...]:
    """Return the Event that goes with the condition OlderRuns, once in a run."""
    told = _find_older_runs(view)
    if told is None or view.condition(ConditionType.OLDER_RUNS) is not None:
        return ()
    return (Event(type="Warning", reason=Reason.OLDER_RUNS, message=told[:1024]),)


def _derive_conditions(view: View, outlook: Outlook) -> list[Condition]:
    finished = outlook.complete or outlook.failed
    facts = {
        ConditionType.READY: outlook.ready,
        ConditionType.RECONCILING: outlook.reconciling,
        ConditionType.STALLED: outlook.stalled,
        ConditionType.CLUSTER_READY: outlook.cluster_ready,
        ConditionType.RUNNING: outlook.running,
        ConditionType.COMPLETE: outlook.complete,
        ConditionType.FAILED: outlook.failed,
        ConditionType.FINISHED: finished,
    }
    turned = [_turn(view, kind, outlook, holds=holds) for kind, holds in facts.items()]
    extra = (_derive_room(view), _derive_older_runs(view))
    return [*turned, *(each for each in extra if each is not None)]


def _derive_room(view: View) -> Condition | None:
    """Return whether saves are skipped for want of room; None when that never happened."""
    kind = ConditionType.CHECKPOINT_STORAGE_FULL
    before = view.condition(kind)
    progress = None if view.run is None else view.run.progress
    why = None if progress is None else progress.storage_full
    if why is None and (before is None or progress is None or progress.checkpoint is None):
        return before
    status: ConditionStatus = "False" if why is None else "True"
    is_same = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=Reason.SAVED if why is None else Reason.SAVE_SKIPPED,
        message="" if why is None else f"{FULL_ADVICE} ({why})"[:MAX_MESSAGE],
        last_transition_time=(
            before.last_transition_time if before and is_same else format_time(view.now)
        ),
        observed_generation=view.job.generation,
    )


def _derive_older_runs(view: View) -> Condition | None:
    """Return that older runs were not continued; once told it stays, for Events are forgotten."""
    before, told = view.condition(ConditionType.OLDER_RUNS), _find_older_runs(view)
    if before is not None or told is None:
        return before
    return Condition(
        type=ConditionType.OLDER_RUNS,
        status="True",
        reason=Reason.OLDER_RUNS,
        message=told[:MAX_MESSAGE],
        last_transition_time=format_time(view.now),
        observed_generation=view.job.generation,
    )


def _find_older_runs(view: View) -> str | None:
    """Return the sentence on them out of what the head has to tell."""
    progress = None if view.run is None else view.run.progress
    told = ((progress.notice if progress else None) or "").split("; ")
    start = next((n for n, part in enumerate(told) if part.startswith(contract.OLDER_RUNS)), None)
    return None if start is None else "; ".join(told[start : start + 2])


def _turn(view: View, kind: ConditionType, outlook: Outlook, *, holds: bool) -> Condition:
    """Return a condition that keeps its transition time while its status stays."""
    status: ConditionStatus = "True" if holds else "False"
    before = view.condition(kind)
    since = format_time(view.now)
    if before is not None and before.status == status:
        since = before.last_transition_time
    # A condition that does not hold has nothing to say, save the one that everybody reads.
    speaks = holds or kind is ConditionType.READY
    return Condition(
        type=kind,
        status=status,
        reason=outlook.reason if speaks else QUIET_REASONS.get(kind, outlook.reason),
        message=outlook.message[:MAX_MESSAGE] if speaks else "",
        last_transition_time=since,
        observed_generation=view.job.generation,
    )


def derive_cluster(view: View) -> ClusterStatus | None:
    """Return the RayCluster in use as status shows it."""
    last = view.last_attempt
    if last is None or view.cluster is None:
        return view.status.cluster
    head = view.head
    return ClusterStatus(
        name=last.cluster,
        head=None if head is None else head.name,
        ready_workers=view.ready_workers,
    )


def derive_progress(
    view: View, progress: contract.Progress | None, now: datetime
) -> dict[str, Any]:
    """Return the status fields that a head's progress fills; none without one."""
    if progress is None:
        return {}
    found: dict[str, Any] = {
        "progress": ProgressStatus(
            step=progress.step,
            total_steps=progress.total_steps,
            epoch=progress.epoch,
            loss=progress.loss,
            samples_per_second=progress.samples_per_second,
            metrics=[Metric(name=m.name, value=m.value) for m in progress.metrics],
            notice=progress.notice,
            updated_at=format_time(now),
        )
    }
    if progress.overrides and view.status.run is not None:
        overrides = list(progress.overrides)
        found["run"] = view.status.run.model_copy(update={"overrides": overrides})
    saved = progress.checkpoint
    if saved is not None:
        found["checkpoint"] = CheckpointStatus(
            step=saved.step,
            path=saved.path,
            time=format_time(datetime.fromtimestamp(saved.time, UTC)),
            export=saved.export,
        )
    return found


def derive_failure(cause: str, message: str, found: contract.Failure | None = None) -> Failure:
    """Return the status entry of a failure, with the evidence of the rank where there is one."""
    if found is None:
        return Failure(cause=cause, message=message[:MAX_MESSAGE])
    return Failure(
        cause=found.cause,
        message=found.message[:MAX_MESSAGE],
        rank=found.rank,
        node=found.node,
        exit_code=found.exit_code,
        log_tail=list(found.log_tail),
    )
