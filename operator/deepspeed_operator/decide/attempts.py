"""Opening attempts: what has to be there first, how long to wait, and on which RayCluster."""

from typing import Any

from deepspeed_operator.api.names import (
    Phase,
    Reason,
    derive_cluster_name,
    derive_submission_id,
)
from deepspeed_operator.api.types import MAX_ATTEMPTS_SHOWN, Attempt, RunStatus
from deepspeed_operator.build.run import RUN_NAME, derive_storage_path
from deepspeed_operator.decide.actions import Plan
from deepspeed_operator.decide.failure import (
    cluster_can_be_used_again,
    derive_backoff_left_s,
    restart_is_free,
)
from deepspeed_operator.decide.prerequisites import find_unmet
from deepspeed_operator.decide.status import Outlook, derive_event, format_time, revise
from deepspeed_operator.decide.view import View

PREREQUISITE_RECHECK_S = 5
"""ConfigMaps, claims and nodes are not watched; a missing one is looked for this often."""


def prerequisite_is_missing(view: View) -> Plan | None:
    """Hold the job while something is missing that only the user or the platform can bring."""
    if view.open_attempt is not None:
        return None
    if view.observed.prerequisites is None:
        return Plan(sentence="waits for the API server's answers", requeue_after_s=1)
    unmet = find_unmet(view, view.observed.prerequisites)
    if unmet is None:
        return None
    reason, message = unmet
    outlook = Outlook(
        phase=Phase.PENDING if view.last_attempt is None else Phase.RESTARTING,
        reason=reason,
        message=message,
        ready=False,
        reconciling=True,
    )
    status = revise(view, outlook)
    return Plan(
        sentence=f"waits: {message}",
        status=None if status == view.status else status,
        events=derive_event(view, outlook),
        requeue_after_s=PREREQUISITE_RECHECK_S,
    )


def next_attempt_is_due(view: View) -> Plan | None:
    """Open the first attempt, or the next one when its wait is over."""
    if view.open_attempt is not None:
        return None
    failed = view.last_attempt
    if failed is not None:
        left_s = derive_backoff_left_s(view, failed)
        if left_s > 0:
            return Plan(
                sentence=f"waits {left_s:.0f} s before attempt {failed.number + 1}",
                requeue_after_s=left_s,
            )
    attempt = _derive_attempt(view, failed)
    outlook = Outlook(
        phase=Phase.STARTING if failed is None else Phase.RESTARTING,
        reason=Reason.CLUSTER_STARTING if failed is None else Reason.RESTARTING,
        message=_describe_opening(view, attempt, failed),
    )
    attempts = [*view.status.attempts, attempt][-MAX_ATTEMPTS_SHOWN:]
    changes: dict[str, Any] = {
        "attempts": attempts,
        "restarts": _count_restarts(view, failed),
        "pull_failing_since": None,
    }
    if failed is None:
        path = derive_storage_path(view.job) if view.spec.storage else None
        changes["run"] = RunStatus(name=RUN_NAME, storage_path=path, nodes=view.spec.nodes)
        changes["start_time"] = attempt.start_time
    return Plan(
        sentence=f"opens attempt {attempt.number} on RayCluster {attempt.cluster}",
        status=revise(view, outlook, **changes),
        locked=True,
        events=derive_event(view, outlook),
        requeue_after_s=0,
    )


def _derive_attempt(view: View, failed: Attempt | None) -> Attempt:
    number = 1 if failed is None else failed.number + 1
    if failed is not None and cluster_can_be_used_again(view, failed):
        cluster = failed.cluster
    else:
        cluster = derive_cluster_name(view.job.key.name, view.job.uid, number)
    return Attempt(
        number=number,
        state="Opened",
        nodes=view.spec.nodes,
        cluster=cluster,
        submission_id=derive_submission_id(cluster, number),
        start_time=format_time(view.now),
    )


def _describe_opening(view: View, attempt: Attempt, failed: Attempt | None) -> str:
    place = f"RayCluster {attempt.cluster}: a head and {view.spec.nodes} workers"
    if failed is None:
        return f"attempt 1 starts on {place}"
    if restart_is_free(failed.cause):
        counted = "which counts as no restart"
    else:
        most = view.spec.failure_policy.max_restarts
        counted = f"restart {_count_restarts(view, failed)} of {most}"
    return (
        f"attempt {failed.number} ended ({failed.cause}); attempt {attempt.number}, {counted},"
        f" starts on {place}"
    )


def _count_restarts(view: View, failed: Attempt | None) -> int:
    """Return the restarts of the run, the attempt that follows `failed` included."""
    is_counted = failed is not None and not restart_is_free(failed.cause)
    return view.status.restarts + is_counted
