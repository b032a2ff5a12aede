"""From an open attempt to a run that goes on: cluster, waiting, recording, handing over, following.

An attempt's state says how far it is: Opened (a cluster may be made), Submitting (the head pod is
chosen and recorded, so the run may be handed to it and to no other), Running (the head said so).
"""

from datetime import timedelta
from typing import Any

from deepspeed_operator.api.names import Phase, Reason
from deepspeed_operator.api.types import Attempt, RunCode, RunStatus
from deepspeed_operator.build.code import derive_copy_path
from deepspeed_operator.build.raycluster import build_raycluster
from deepspeed_operator.build.run import build_contract
from deepspeed_operator.decide import trouble
from deepspeed_operator.decide.actions import (
    ApplyObject,
    EnsureToken,
    HeadWatch,
    Plan,
    SubmitRun,
)
from deepspeed_operator.decide.deepspeed import read_config
from deepspeed_operator.decide.ending import derive_steps
from deepspeed_operator.decide.environment import read_environment
from deepspeed_operator.decide.failure import derive_restarts_left
from deepspeed_operator.decide.observed import PodFacts, RunState
from deepspeed_operator.decide.prerequisites import (
    derive_ordered_config_maps,
    find_order_fault,
)
from deepspeed_operator.decide.restarts import derive_restarts
from deepspeed_operator.decide.status import (
    MAX_MESSAGE,
    Outlook,
    derive_cluster,
    derive_event,
    derive_progress,
    format_time,
    parse_time,
    revise,
)
from deepspeed_operator.decide.view import View
from deepspeed_trainer.contract import CONTRACT_ENV, DRIVER_COMMAND

RECHECK_S = 5
"""A start is looked at this often even if nothing is heard: silence is a fact too."""


def cluster_is_absent(view: View) -> Plan | None:
    """Make the token and the RayCluster, each once."""
    attempt = view.open_attempt
    if attempt is None or view.cluster is not None:
        return None
    body = build_raycluster(
        view.job,
        view.spec,
        attempt.cluster,
        view.image,
        trainer_image=view.defaults.trainer_image,
        injector=view.defaults.injector_image,
        frozen=None if view.status.run is None else view.status.run.code,
    )
    return Plan(
        sentence=f"creates RayCluster {attempt.cluster}",
        actions=(EnsureToken(attempt.cluster), ApplyObject(body)),
        requeue_after_s=RECHECK_S,
    )


def run_goes_on(view: View) -> Plan | None:
    """Follow a run that the head started; write progress when its time has come."""
    attempt = view.open_attempt
    if attempt is None or (attempt.state != "Running" and view.run_state is not RunState.RUNNING):
        return None
    outlook = _derive_running_outlook(view, attempt)
    run = view.run
    progress = None if run is None else run.progress
    changes: dict[str, Any] = {}
    if attempt.state != "Running" or _progress_is_due(view):
        changes |= derive_progress(view, progress, view.now)
    restarted = derive_restarts(view, progress)
    followed = attempt.model_copy(
        update={"state": "Running", "restarts": restarted.of_attempt, **derive_steps(progress)}
    )
    if restarted.failure is not None:
        changes["failure"] = restarted.failure
    status = revise(
        view,
        outlook,
        attempts=[*view.status.attempts[:-1], followed],
        restarts=restarted.of_run,
        **changes,
    )
    return Plan(
        sentence=outlook.message,
        status=None if status == view.status else status,
        # What is counted up must be counted from what is there.
        locked=attempt.state != "Running" or restarted.failure is not None,
        events=(*derive_event(view, outlook), *restarted.events),
        head=derive_head_watch(view),
    )


def run_is_not_submitted(view: View) -> Plan | None:
    """Hand the run to the recorded head; Ray refuses a second job under the same id."""
    attempt = view.open_attempt
    if attempt is None or attempt.state != "Submitting" or view.head is None:
        return None
    watch = derive_head_watch(view)
    if view.run_state is RunState.DENIED:
        return _explain(view, Reason.HEAD_REFUSES_TOKEN, _DENIED, watch)
    if view.run_state is RunState.PENDING or watch is None:
        return Plan(
            sentence="waits for the head to start the run",
            head=watch,
            requeue_after_s=RECHECK_S,
        )
    answers = view.observed.prerequisites
    if answers is None and derive_ordered_config_maps(view.spec):
        return Plan(sentence="waits for the ConfigMaps' content", head=watch, requeue_after_s=1)
    if answers is not None and (fault := find_order_fault(view, answers)) is not None:
        return _explain(view, *fault, None)
    config_maps = {} if answers is None else answers.config_maps
    ordered = build_contract(
        view.job,
        view.spec,
        attempt,
        head_uid=attempt.head_uid or "",
        deepspeed_config=read_config(view.spec, config_maps, view.first_nodes),
        env=read_environment(view.spec, config_maps),
        restarts_left=derive_restarts_left(view),
    )
    submit = SubmitRun(
        cluster=attempt.cluster,
        head_ip=watch.head_ip,
        submission_id=attempt.submission_id,
        command=DRIVER_COMMAND,
        env={CONTRACT_ENV: ordered.to_json()},
    )
    return Plan(
        sentence=f"submits {attempt.submission_id} to head {view.head.name}",
        actions=(submit,),
        head=watch,
        requeue_after_s=RECHECK_S,
    )


def cluster_is_coming_up(view: View) -> Plan | None:
    """Wait for the head and all workers, and say what holds them up."""
    attempt = view.open_attempt
    if attempt is None or view.is_cluster_ready:
        return None
    reason, message = _find_obstacle(view, attempt)
    pulling = reason is Reason.IMAGE_PULL_FAILING
    known = view.status.pull_failing_since
    trouble_free = reason is Reason.CLUSTER_STARTING
    again = trouble_free and attempt.number > 1
    outlook = Outlook(
        phase=Phase.STARTING if attempt.number == 1 else Phase.RESTARTING,
        reason=Reason.RESTARTING if again else reason,
        message=(_keep_message(view, Reason.RESTARTING) if again else "") or message,
        ready=trouble_free,
        reconciling=not trouble_free,
    )
    status = revise(
        view,
        outlook,
        pull_failing_since=(known or format_time(view.now)) if pulling else None,
        # Workers that come up one by one are no news; each would be a write.
        cluster=view.status.cluster if trouble_free else derive_cluster(view),
    )
    repair = (EnsureToken(attempt.cluster),) if reason is Reason.POD_CONFIG_ERROR else ()
    return Plan(
        sentence=message,
        actions=repair,
        status=None if status == view.status else status,
        events=derive_event(view, outlook),
        requeue_after_s=RECHECK_S,
    )


def submission_is_not_recorded(view: View) -> Plan:
    """Record which head pod gets the run, before it gets it."""
    attempt, head = view.open_attempt, view.head
    if attempt is None or head is None:
        raise AssertionError("the chain comes here only with an open attempt and a ready head")
    outlook = Outlook(
        phase=view.status.phase or Phase.STARTING,
        reason=Reason.SUBMITTING,
        message=f"all {view.spec.nodes} workers are ready; handing the run to head {head.name}",
        cluster_ready=True,
    )
    recorded = attempt.model_copy(update={"state": "Submitting", "head_uid": head.uid})
    return Plan(
        sentence=outlook.message,
        status=revise(
            view,
            outlook,
            attempts=[*view.status.attempts[:-1], recorded],
            pull_failing_since=None,
            run=_record_code(view, head),
        ),
        locked=True,
        events=derive_event(view, outlook),
        requeue_after_s=0,
    )


def _record_code(view: View, head: PodFacts) -> RunStatus | None:
    """Return the run with the code that its first attempt has; it stays the same from then on."""
    run, report = view.status.run, head.code
    if run is None or run.code is not None or report is None or report.frozen is None:
        return run
    frozen = report.frozen
    path = derive_copy_path(view.job, frozen)
    code = RunCode(commit=frozen.commit, sha256=frozen.sha256, path=path)
    return run.model_copy(update={"code": code})


def derive_head_watch(view: View) -> HeadWatch | None:
    """Return which head to ask about which run; None without an address."""
    attempt = view.open_attempt
    if attempt is None or attempt.head_uid is None:
        return None
    head = next((p for p in view.pods if p.uid == attempt.head_uid), None)
    if head is None or head.ip is None:
        return None
    return HeadWatch(attempt.cluster, head.uid, head.ip, attempt.submission_id)


def _derive_running_outlook(view: View, attempt: Attempt) -> Outlook:
    reason = Reason.RUNNING
    message = f"attempt {attempt.number} runs {view.world_size} ranks on {view.spec.nodes} nodes"
    if view.size_refusal is not None:
        message = f"{message}; {view.size_refusal}"[:MAX_MESSAGE]
    if view.run_state is RunState.DENIED:
        reason, message = Reason.HEAD_REFUSES_TOKEN, _DENIED
    elif view.run_state is RunState.UNKNOWN and view.run is not None:
        reason = Reason.HEAD_UNREACHABLE
        message = f"the head does not answer; the run may well go on: {view.run.error}"
    return Outlook(
        phase=Phase.RUNNING,
        reason=reason,
        message=message,
        ready=reason is Reason.RUNNING,
        cluster_ready=True,
        running=True,
    )


_DENIED = (
    "the head refuses this operator's token: the Secret named as the RayCluster was not made by"
    " it; delete the RayCluster and that Secret, a new attempt follows"
)


def _explain(view: View, reason: Reason, message: str, watch: HeadWatch | None) -> Plan:
    outlook = Outlook(
        phase=view.status.phase or Phase.STARTING,
        reason=reason,
        message=message,
        ready=False,
        reconciling=True,
        cluster_ready=True,
    )
    status = revise(view, outlook)
    return Plan(
        sentence=message,
        status=None if status == view.status else status,
        events=derive_event(view, outlook),
        head=watch,
        requeue_after_s=RECHECK_S,
    )


def _find_obstacle(view: View, attempt: Attempt) -> tuple[Reason, str]:
    pod = trouble.find_failing_pull(view)
    if pod is not None:
        return Reason.IMAGE_PULL_FAILING, trouble.describe_failing_pull(view, pod)
    pod = trouble.find_config_error(view)
    if pod is not None and pod.waiting is not None:
        return Reason.POD_CONFIG_ERROR, (
            f"pod {pod.name} cannot start: {pod.waiting.reason}: {pod.waiting.message[:600]}"
        )
    pod = trouble.find_unschedulable(view)
    if pod is not None:
        return Reason.UNSCHEDULABLE, (
            f"no node has room for pod {pod.name}: {(pod.unschedulable or '')[:600]}"
        )
    cluster = view.cluster
    if cluster is not None and cluster.failure_message:
        return Reason.KUBERAY_SILENT, f"KubeRay cannot make pods: {cluster.failure_message[:600]}"
    if trouble.kuberay_is_silent(view):
        return Reason.KUBERAY_SILENT, (
            f"RayCluster {attempt.cluster} has no pods after {trouble.KUBERAY_PATIENCE_S} s:"
            " is the KubeRay operator running, and does it watch this namespace?"
        )
    return Reason.CLUSTER_STARTING, _keep_message(view, Reason.CLUSTER_STARTING) or (
        f"attempt {attempt.number} waits for the head and {view.spec.nodes} workers of RayCluster"
        f" {attempt.cluster}"
    )


def _keep_message(view: View, reason: Reason) -> str:
    """Return the message that stands under a reason, so that waiting writes nothing new."""
    ready = next((c for c in view.status.conditions if c.type == "Ready"), None)
    return ready.message if ready is not None and ready.reason == reason else ""


def _progress_is_due(view: View) -> bool:
    run, written = view.run, view.status.progress
    if run is None or run.progress is None:
        return False
    if written is None or written.updated_at is None:
        return run.progress.step > 0
    interval = timedelta(seconds=view.defaults.progress_interval_s)
    if view.now - parse_time(written.updated_at) < interval:
        return False
    # A new operator, or a list of everything, looks at runs that have not moved since.
    figures = derive_progress(view, run.progress, parse_time(written.updated_at))
    return any(getattr(view.status, name) != value for name, value in figures.items())
