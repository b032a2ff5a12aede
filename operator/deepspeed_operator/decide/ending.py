"""How attempts and jobs end: success, each kind of failure, and what is left when all is over."""

from datetime import timedelta
from typing import Any

from deepspeed_operator.api.names import Phase, Reason
from deepspeed_operator.api.types import Attempt, AttemptState
from deepspeed_operator.decide import trouble
from deepspeed_operator.decide.actions import Plan
from deepspeed_operator.decide.failure import (
    restart_budget_is_spent,
    restart_can_help,
    restart_is_free,
)
from deepspeed_operator.decide.observed import RunState
from deepspeed_operator.decide.restarts import derive_restarts
from deepspeed_operator.decide.status import (
    Outlook,
    derive_event,
    derive_failure,
    derive_progress,
    format_time,
    parse_time,
    revise,
)
from deepspeed_operator.decide.view import View, is_alive
from deepspeed_trainer import contract


def job_is_finished(view: View) -> Plan | None:
    """Nothing more to decide; the RayCluster goes when its time has passed (see reconcile)."""
    if not view.is_finished:
        return None
    sentence = f"finished: {view.status.phase}"
    if not view.observed.clusters or view.status.finish_time is None:
        return Plan(sentence=sentence)
    ttl = timedelta(seconds=view.spec.ttl_seconds_after_finished)
    left_s = (parse_time(view.status.finish_time) + ttl - view.now).total_seconds()
    return Plan(sentence=sentence, requeue_after_s=left_s if left_s > 0 else None)


def cluster_was_deleted(view: View) -> Plan | None:
    """Somebody deleted the RayCluster under an attempt that had been handed to it."""
    attempt = view.open_attempt
    if attempt is None:
        return None
    if view.cluster is not None and not view.cluster.deleting:
        return None
    if view.cluster is None and attempt.state == "Opened":
        return None
    message = f"RayCluster {attempt.cluster} was deleted while attempt {attempt.number} used it"
    return _fail(view, attempt, Reason.CLUSTER_LOST, message)


def head_was_lost(view: View) -> Plan | None:
    """The head pod that was chosen for the run is gone, ended or replaced: the run with it."""
    attempt = view.open_attempt
    if attempt is None or attempt.head_uid is None:
        return None
    chosen = next((p for p in view.pods if p.uid == attempt.head_uid), None)
    if chosen is not None and is_alive(chosen):
        return None
    if view.run_state is RunState.SUCCEEDED:
        return None
    detail = trouble.describe_exit(chosen) if chosen is not None else "its head pod is gone"
    message = f"attempt {attempt.number} lost its head: {detail}"
    return _fail(view, attempt, Reason.HEAD_LOST, message)


def image_cannot_be_pulled(view: View) -> Plan | None:
    """An image that cannot be pulled ends the job: the next attempt would pull the same."""
    attempt = view.open_attempt
    pod = trouble.find_failing_pull(view)
    if attempt is None or attempt.state == "Running" or pod is None:
        return None
    if not trouble.pull_has_failed_for_good(view, pod):
        return None
    message = trouble.describe_failing_pull(view, pod)
    return _fail(view, attempt, Reason.IMAGE_PULL_FAILED, message)


def code_cannot_be_had(view: View) -> Plan | None:
    """A pod could not fetch the code: some faults pass, a branch that is not there does not."""
    attempt = view.open_attempt
    if attempt is None or attempt.state != "Opened":
        return None
    found = trouble.find_code_fault(view)
    if found is None:
        return None
    hopeless = found.reason == contract.REFUSED
    cause = Reason.CODE_REFUSED if hopeless else Reason.CODE_UNAVAILABLE
    return _fail(view, attempt, cause, found.message)


def image_is_unsupported(view: View) -> Plan | None:
    """The injected trainer cannot run in the job's image; the next attempt would have the same."""
    attempt = view.open_attempt
    pod = trouble.find_failed_pod(view)
    if attempt is None or attempt.state != "Opened" or pod is None or pod.exit is None:
        return None
    if pod.exit.code != contract.EXIT_IMAGE_UNSUPPORTED or not view.is_injected:
        return None
    message = trouble.describe_unsupported_image(view, pod.exit)
    return _fail(view, attempt, Reason.IMAGE_UNSUPPORTED, message)


def pod_failed_too_early(view: View) -> Plan | None:
    """A pod ended before the run was handed over; left alone, KubeRay would make it for ever."""
    attempt = view.open_attempt
    if attempt is None or attempt.state != "Opened":
        return None
    pod = trouble.find_failed_pod(view)
    if pod is None or pod.deleting:
        return None
    return _fail(view, attempt, Reason.POD_FAILED, trouble.describe_exit(pod))


def run_succeeded(view: View) -> Plan | None:
    """Every rank ended well."""
    attempt = view.open_attempt
    if attempt is None or view.run_state is not RunState.SUCCEEDED:
        return None
    outlook = Outlook(
        phase=Phase.SUCCEEDED,
        reason=Reason.SUCCEEDED,
        message=f"attempt {attempt.number} succeeded on {view.world_size} ranks",
        complete=True,
    )
    status = revise(
        view,
        outlook,
        attempts=close_attempt(view, attempt, state="Succeeded", cause=None),
        restarts=derive_restarts(view, _progress(view)).of_run,
        finish_time=format_time(view.now),
        failure=None,
        **derive_progress(view, _progress(view), view.now),
    )
    return Plan(
        sentence=f"attempt {attempt.number} succeeded",
        status=status,
        locked=True,
        events=derive_event(view, outlook),
        requeue_after_s=0,
    )


def run_failed(view: View) -> Plan | None:
    """The driver ended badly; the board on the head knows which rank was first, and why."""
    attempt = view.open_attempt
    if attempt is None or view.run_state not in {RunState.FAILED, RunState.STOPPED}:
        return None
    progress = _progress(view)
    found = None if progress is None else progress.failure
    ray_says = view.run.message if view.run is not None else None
    message = found.message if found is not None else (ray_says or "the run failed")
    return _fail(view, attempt, found.cause if found else Reason.RUN_FAILED, message, found)


def run_was_lost(view: View) -> Plan | None:
    """The head lives but no longer knows a run that it had started: its GCS lost its memory."""
    attempt = view.open_attempt
    if attempt is None or attempt.state != "Running" or view.run_state is not RunState.NOT_FOUND:
        return None
    message = f"the head no longer knows run {attempt.submission_id}; Ray restarted inside its pod"
    return _fail(view, attempt, Reason.HEAD_LOST, message)


def _fail(
    view: View,
    attempt: Attempt,
    cause: str,
    message: str,
    found: contract.Failure | None = None,
) -> Plan:
    """Close the attempt; say whether another one follows."""
    hopeless = not restart_can_help(cause)
    restarts = derive_restarts(view, _progress(view)).of_run
    spent = not restart_is_free(cause) and restart_budget_is_spent(view.spec, restarts)
    changes: dict[str, Any] = {
        "attempts": close_attempt(view, attempt, state="Failed", cause=cause),
        "restarts": restarts,
        "failure": derive_failure(cause, message, found),
        **derive_progress(view, _progress(view), view.now),
    }
    if hopeless or spent:
        ending = "no restart can help" if hopeless else _describe_budget(view)
        changes["finish_time"] = format_time(view.now)
        outlook = Outlook(
            phase=Phase.FAILED,
            reason=cause if isinstance(cause, Reason) else Reason.RUN_FAILED,
            message=f"attempt {attempt.number} failed ({cause}): {message}; {ending}",
            ready=False,
            stalled=True,
            failed=True,
        )
    else:
        outlook = Outlook(
            phase=Phase.RESTARTING,
            reason=Reason.RESTARTING,
            message=f"attempt {attempt.number} failed ({cause}): {message}; another one follows",
        )
    return Plan(
        sentence=outlook.message,
        status=revise(view, outlook, **changes),
        locked=True,
        events=derive_event(view, outlook),
        requeue_after_s=0,
    )


def _describe_budget(view: View) -> str:
    most = view.spec.failure_policy.max_restarts
    return (
        f"all {most} restarts of failurePolicy.maxRestarts are used"
        if most
        else ("failurePolicy.maxRestarts allows no restart")
    )


def _progress(view: View) -> contract.Progress | None:
    return None if view.run is None else view.run.progress


def close_attempt(
    view: View, attempt: Attempt, *, state: AttemptState, cause: str | None
) -> list[Attempt]:
    """Return status.attempts with the open one closed, and what its head last told of it."""
    closed = attempt.model_copy(
        update={
            "state": state,
            "cause": None if cause is None else str(cause),
            "finish_time": format_time(view.now),
            "restarts": derive_restarts(view, _progress(view)).of_attempt,
            **derive_steps(_progress(view)),
        }
    )
    return [*view.status.attempts[:-1], closed]


def derive_steps(progress: contract.Progress | None) -> dict[str, Any]:
    """Return where an attempt continued from and its first step, as far as they are known."""
    if progress is None:
        return {}
    found: dict[str, Any] = {}
    if progress.resumed_from is not None:
        found["resumed_from_step"] = progress.resumed_from.step
    if progress.first_step is not None:
        found["first_step"] = progress.first_step
    return found
