"""What follows a failed attempt: another one, when, and on which RayCluster.

The budget and the wait are computed from status alone, so a restart of the operator changes
neither.  What a cause means is said once, in the contract's room; here are the operator's own.
"""

from datetime import timedelta

from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import Attempt, DeepSpeedJobSpec
from deepspeed_operator.decide.status import parse_time
from deepspeed_operator.decide.view import View, is_alive
from deepspeed_trainer.contract import (
    FREE,
    HEAD_POD,
    REMEDIES,
    Cause,
    Remedy,
    derive_backoff_s,
)

HOPELESS = frozenset(
    {cause for cause, remedy in REMEDIES.items() if remedy is Remedy.NONE}
    | {Reason.IMAGE_PULL_FAILED, Reason.IMAGE_UNSUPPORTED, Reason.CODE_REFUSED}
)
"""Causes that the same program on the same image meets again."""

CLUSTER_UNUSABLE = frozenset(
    {
        Reason.HEAD_LOST,
        Reason.CLUSTER_LOST,
        Reason.POD_FAILED,
        Reason.IMAGE_PULL_FAILED,
        Reason.RESIZED,
        Reason.CODE_REFUSED,
        Reason.CODE_UNAVAILABLE,
    }
)
"""Causes after which a new attempt needs a new RayCluster."""
UNCOUNTED = FREE | {Reason.RESIZED}
"""Causes that are not the job's: what follows costs no restart."""


def restart_can_help(cause: str) -> bool:
    """Return whether another attempt could end differently."""
    return cause not in HOPELESS


def restart_is_free(cause: str | None) -> bool:
    """Return whether what follows this cause is not counted, and not waited for."""
    return cause in UNCOUNTED


def restart_budget_is_spent(spec: DeepSpeedJobSpec, restarts: int) -> bool:
    """Return whether `restarts` are all that the run may have."""
    return restarts >= spec.failure_policy.max_restarts


def derive_restarts_left(view: View) -> int:
    """Return how many restarts the ranks of the open attempt may use up."""
    return max(0, view.spec.failure_policy.max_restarts - view.status.restarts)


def derive_backoff_left_s(view: View, failed: Attempt) -> float:
    """Return the seconds until the next attempt may open; zero or less when it may now."""
    wait_s = derive_backoff_s(view.spec.failure_policy.backoff_seconds, view.status.restarts)
    if failed.finish_time is None or restart_is_free(failed.cause):
        return 0.0
    due = parse_time(failed.finish_time) + timedelta(seconds=wait_s)
    return (due - view.now).total_seconds()


def cluster_can_be_used_again(view: View, failed: Attempt) -> bool:
    """Return whether the failed attempt's head still lives, so that its RayCluster is kept.

    Workers may be missing: KubeRay replaces them, and the next attempt waits for all.
    """
    said = view.status.failure
    if said is not None and said.cause == Cause.PREEMPTED and said.node == HEAD_POD:
        return False
    head, cluster = view.head, view.cluster
    if cluster is None or cluster.deleting or failed.cause in CLUSTER_UNUSABLE:
        return False
    return head is not None and is_alive(head) and head.uid == failed.head_uid
