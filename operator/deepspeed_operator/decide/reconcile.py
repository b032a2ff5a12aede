"""The product on one page: from a job and what was observed to one Plan.

The chain is read from top to bottom and the first policy that has something to say wins.  A step
that cannot be undone is planned only when the status that was read already records it: one pass
records, the next one acts.  Deletion needs no hand here: children go with their owner.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.names import Phase, Reason
from deepspeed_operator.decide import attempts, ending, fencing, resizing, starting
from deepspeed_operator.decide.actions import DeleteCluster, Plan
from deepspeed_operator.decide.failure import cluster_can_be_used_again
from deepspeed_operator.decide.observed import Defaults, Observed
from deepspeed_operator.decide.status import Outlook, derive_event, parse_time, revise
from deepspeed_operator.decide.view import View, read_view
from deepspeed_operator.errors import InvalidJob

Policy = Callable[[View], Plan | None]

CHAIN: Final[tuple[Policy, ...]] = (
    ending.job_is_finished,
    attempts.prerequisite_is_missing,
    attempts.next_attempt_is_due,
    ending.cluster_was_deleted,
    ending.head_was_lost,
    ending.image_cannot_be_pulled,
    ending.code_cannot_be_had,
    ending.image_is_unsupported,
    ending.pod_failed_too_early,
    resizing.size_was_changed,
    starting.cluster_is_absent,
    ending.run_succeeded,
    ending.run_failed,
    ending.run_was_lost,
    starting.run_goes_on,
    starting.run_is_not_submitted,
    starting.cluster_is_coming_up,
    fencing.old_ranks_may_live,
    starting.submission_is_not_recorded,
)


def reconcile(job: JobFacts, observed: Observed, defaults: Defaults, now: datetime) -> Plan:
    """Return what should change for a job, and why. Pure: same input, same Plan."""
    if job.deleting:
        return Plan(sentence="the job is being deleted; its children go with it")
    try:
        view = resizing.keep_size(read_view(job, observed, defaults, now))
        return _with_superseded_clusters_gone(view, _decide(view))
    except InvalidJob as error:
        return _refuse(job, observed, defaults, now, str(error))


def _decide(view: View) -> Plan:
    for policy in CHAIN:
        plan = policy(view)
        if plan is not None:
            return plan
    raise AssertionError("the last policy of the chain always has a plan")


def _with_superseded_clusters_gone(view: View, plan: Plan) -> Plan:
    """Delete clusters that nothing recorded in status needs any more, before anything is made."""
    kept = _derive_kept_cluster(view)
    gone = tuple(
        DeleteCluster(c.name, c.uid)
        for c in view.observed.clusters
        if c.name != kept and not c.deleting
    )
    return replace(plan, actions=(*gone, *plan.actions)) if gone else plan


def _derive_kept_cluster(view: View) -> str | None:
    last = view.last_attempt
    if last is None:
        return None
    if view.is_finished:
        ttl = timedelta(seconds=view.spec.ttl_seconds_after_finished)
        ended = parse_time(view.status.finish_time) if view.status.finish_time else view.now
        return last.cluster if view.now < ended + ttl else None
    if view.open_attempt is not None or cluster_can_be_used_again(view, last):
        return last.cluster
    return None


def _refuse(
    job: JobFacts, observed: Observed, defaults: Defaults, now: datetime, message: str
) -> Plan:
    """Say why a job cannot be read or built; its status is written over what can be read of it."""
    bare = replace(job, spec={"nodes": 1, "entrypoint": {}})
    try:
        view = read_view(bare, observed, defaults, now)
    except InvalidJob:
        return Plan(sentence=f"the status cannot be read: {message}")
    if view.is_finished:
        return Plan(sentence=f"finished: {view.status.phase}")
    outlook = Outlook(
        phase=Phase.PENDING,
        reason=Reason.INVALID_SPEC,
        message=message,
        ready=False,
        stalled=True,
    )
    status = revise(view, outlook, world_size=view.status.world_size)
    return Plan(
        sentence=f"refuses the spec: {message}",
        status=None if status == view.status else status,
        events=derive_event(view, outlook),
    )
