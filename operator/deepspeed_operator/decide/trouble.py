"""What can go wrong with the pods of a cluster that is coming up, as propositions.

Each function finds one fact and says it in a sentence for the user; reconcile gives them an order.
"""

from datetime import timedelta

from deepspeed_operator.decide.observed import Exit, PodFacts
from deepspeed_operator.decide.status import parse_time
from deepspeed_operator.decide.view import View
from deepspeed_trainer.contract import CodeFault

PULL_FAILS_FOR_GOOD = frozenset({"ErrImageNeverPull", "InvalidImageName"})
PULL_FAILS = PULL_FAILS_FOR_GOOD | {
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
CONFIG_FAILS = frozenset({"CreateContainerConfigError", "CreateContainerError"})

PULL_PATIENCE_S = 60
"""How long failing pulls are borne: a registry's hiccup passes, a wrong name does not."""

KUBERAY_PATIENCE_S = 20
"""KubeRay makes pods within a second or two; after this long somebody should look at it."""


def find_failing_pull(view: View) -> PodFacts | None:
    """Return a pod whose image cannot be pulled."""
    return next((p for p in view.pods if p.waiting and p.waiting.reason in PULL_FAILS), None)


def pull_has_failed_for_good(view: View, pod: PodFacts) -> bool:
    """Return whether waiting longer for a pull is in vain."""
    if pod.waiting is not None and pod.waiting.reason in PULL_FAILS_FOR_GOOD:
        return True
    since = view.status.pull_failing_since
    if since is None:
        return False
    return view.now - parse_time(since) >= timedelta(seconds=PULL_PATIENCE_S)


def describe_failing_pull(view: View, pod: PodFacts) -> str:
    """Return the sentence for a pod whose image cannot be pulled."""
    detail = f"{pod.waiting.reason}: {pod.waiting.message}" if pod.waiting else ""
    injector = view.defaults.injector_image
    image = injector if view.is_injected and injector in detail else view.image
    return (
        f"node {pod.node} cannot pull {image} for pod {pod.name} ({detail[:600]}); check the"
        " image's name and tag, the registry's credentials on the nodes and imagePullPolicy"
    )


def find_config_error(view: View) -> PodFacts | None:
    """Return a pod whose container the kubelet cannot make."""
    return next((p for p in view.pods if p.waiting and p.waiting.reason in CONFIG_FAILS), None)


def find_code_fault(view: View) -> CodeFault | None:
    """Return why a pod could not fetch the code; KubeRay may be deleting it already."""
    reports = (pod.code for pod in view.pods)
    return next((report.fault for report in reports if report and report.fault), None)


def find_failed_pod(view: View) -> PodFacts | None:
    """Return a pod that ended although it should run."""
    ended = (pod for pod in view.pods if pod.phase in {"Failed", "Succeeded"})
    return next((pod for pod in ended if not _was_left_over(view, pod)), None)


def _was_left_over(view: View, pod: PodFacts) -> bool:
    """Return whether a worker is of an attempt that had this RayCluster before.

    It ends for what ended that attempt, perhaps late, and KubeRay replaces it.
    """
    if pod.role == "head" or len(view.status.attempts) < 2:
        return False
    before, last = view.status.attempts[-2:]
    return before.cluster == last.cluster and pod.created < parse_time(last.start_time)


def describe_exit(pod: PodFacts) -> str:
    """Return the sentence for a pod that ended."""
    if pod.exit is None:
        return f"pod {pod.name} on node {pod.node} ended"
    detail = f": {pod.exit.message[:400]}" if pod.exit.message else ""
    return (
        f"pod {pod.name} on node {pod.node} ended with exit code {pod.exit.code}"
        f" ({pod.exit.reason}){detail}"
    )


def describe_unsupported_image(view: View, end: Exit) -> str:
    """Return the sentence for an image that the trainer cannot run in."""
    return f"spec.image {view.image}: {end.message.strip()[:800]}"


def find_unschedulable(view: View) -> PodFacts | None:
    """Return a pod that the scheduler finds no place for."""
    return next((p for p in view.pods if p.unschedulable), None)


def kuberay_is_silent(view: View) -> bool:
    """Return whether a RayCluster stands without pods for longer than KubeRay ever needs."""
    cluster = view.cluster
    if cluster is None or view.pods or cluster.deleting:
        return False
    return view.now - cluster.created >= timedelta(seconds=KUBERAY_PATIENCE_S)
