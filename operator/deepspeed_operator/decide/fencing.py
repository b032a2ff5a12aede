"""Two attempts must not write at once: the next is handed over when the last one's ranks are gone.

They are proven gone when their pods are: the API server drops a pod after its kubelet has seen the
containers end (who deletes one by force says the same on his own word).  Where that cannot be had,
as for a node that nobody reaches, time is the proof: a rank dies by itself when it has not heard
from its head for the contract's deadman time, and a head that was told to go may speak to it for
its grace.  On a RayCluster that is used again the driver has ended its ranks, and a pod that it
does not reach counts as missing until it is replaced.
"""

from datetime import timedelta

from deepspeed_operator.api.names import Phase, Reason
from deepspeed_operator.api.types import Attempt
from deepspeed_operator.decide.actions import Plan
from deepspeed_operator.decide.observed import PodFacts
from deepspeed_operator.decide.status import Outlook, derive_event, parse_time, revise
from deepspeed_operator.decide.view import View
from deepspeed_trainer.contract import DEADMAN_S

MARGIN_S = 15
"""For what lies between the head's last word and the rank's end: a pause between two talks, the
kill, clocks that differ."""


def old_ranks_may_live(view: View) -> Plan | None:
    """Hold the run back while pods of an earlier attempt may still train."""
    attempt, last = view.open_attempt, _find_last_run(view)
    if attempt is None or attempt.state != "Opened" or last is None or last.finish_time is None:
        return None
    old = [pod for pod in view.observed.pods if _may_train(pod, attempt)]
    wait_s = DEADMAN_S + MARGIN_S
    if any(pod.role == "head" and pod.cluster != attempt.cluster for pod in old):
        wait_s += view.spec.preemption.grace_seconds
    due = parse_time(last.finish_time) + timedelta(seconds=wait_s)
    left_s = (due - view.now).total_seconds()
    if not old or left_s <= 0:
        return None
    message = (
        f"attempt {attempt.number} waits for the pods of attempt {last.number}, which may still"
        f" train: until they are gone, or {wait_s} s after its end"
    )
    outlook = Outlook(
        phase=Phase.RESTARTING,
        reason=Reason.FENCING,
        message=message,
        cluster_ready=True,
    )
    status = revise(view, outlook)
    return Plan(
        sentence=f"{message}: {', '.join(sorted(pod.name for pod in old))}",
        status=None if status == view.status else status,
        events=derive_event(view, outlook),
        requeue_after_s=left_s,
    )


def _find_last_run(view: View) -> Attempt | None:
    """Return the last attempt before the open one that was handed to a head."""
    return next((a for a in reversed(view.status.attempts[:-1]) if a.head_uid is not None), None)


def _may_train(pod: PodFacts, attempt: Attempt) -> bool:
    has_ended = pod.phase in {"Failed", "Succeeded"}
    return not has_ended and (pod.deleting or pod.cluster != attempt.cluster)
