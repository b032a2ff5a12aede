"""A cluster that somebody else runs: asked before it is touched, and left as it was found.

It is the current context of the kubeconfig. What is asked: does it answer, is KubeRay there, may
this user do what the demo does, which storage serves the example, is there an operator or an
example of somebody's already. Left out: whether a storage class can make ReadWriteMany volumes,
which nothing but trying tells.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from devcluster import versions
from devcluster.errors import DevclusterError, Missing, WrongUse
from devcluster.paths import cache_dir, digest, written_whole
from tools import example, images, install
from tools.choice import EXISTING, Choice
from tools.install import CommandFailed
from tools.target import Images, Reachable, Target, client_environment

LABELS = {"app.kubernetes.io/part-of": "deepspeed-operator-demo"}
KUBERAY_CHART = "https://ray-project.github.io/kuberay-helm/"
JOBS = "deepspeedjobs.dsjob.dev"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
ANSWER_S = 15
DELETION_S = 180
RIGHTS = (
    ("", "namespaces", ""),
    ("apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("rbac.authorization.k8s.io", "clusterroles", ""),
    ("rbac.authorization.k8s.io", "clusterrolebindings", ""),
    ("rbac.authorization.k8s.io", "roles", install.NAMESPACE),
    ("apps", "deployments", install.NAMESPACE),
    ("", "secrets", install.NAMESPACE),
    ("", "persistentvolumeclaims", example.NAMESPACE),
    ("dsjob.dev", "deepspeedjobs", example.NAMESPACE),
)
"""Group, resource, namespace of what the chart and the example create and patch."""


def up(choice: Choice) -> Target:
    """The cluster of the current context, asked about and with images; says which it is.

    Raises: DevclusterError for what it lacks, in a sentence.
    """
    target = examine(open_context(choice), choice.storage_class)
    if not choice.registry:
        print("IMAGE_REGISTRY is not set: the nodes are taken to hold our images (policy Never)")
    elif choice.pushes:
        images.provide(images.push_steps(choice.registry))
    return target


def examine(target: Target, storage_class: str = "") -> Target:
    """Ask for everything that the demo needs, and choose its storage. Raises: DevclusterError."""
    ask_for_answer(target)
    ask_for_kuberay(target)
    ask_for_rights(target)
    ask_for_others(target)
    return replace(target, storage_class=find_storage_class(target, storage_class))


def open_context(choice: Choice) -> Target:
    """The current context, said aloud; it stays the one, should the user turn to another.

    Raises: Missing when the kubeconfig has none.
    """
    view = ("kubectl", "config", "view", "--minify", "-o", "json")
    try:
        before = Target("", client_environment(choice.kubeconfig), "")
        shown = json.loads(install.run(before, *view))
    except CommandFailed as failure:
        raise Missing(
            f"CLUSTER=existing needs a current context, and {choice.kubeconfig} has none that can"
            f" be used: `kubectl config use-context NAME` chooses one. ({_end_of(failure)})"
        ) from failure
    context = str(shown["current-context"])
    print(f"using context {context}: {shown['clusters'][0]['cluster']['server']}", flush=True)
    return Target(
        context,
        client_environment(_pin(choice.kubeconfig, context)),
        f"kubectl config use-context {context}",
        words=f"CLUSTER={EXISTING}",
        images=images_in(choice.registry),
        labels=LABELS,
    )


def images_in(registry: str) -> Images:
    """Our images below this address; a tag of ours moves, so nodes look each time."""
    if not registry:
        return Images()
    operator, trainer, quickstart = (images.name_in(registry, each.tag) for each in images.RECIPES)
    return Images(operator, trainer, quickstart, "Always")


def ask_for_answer(target: Target) -> None:
    """Raises: Missing when nobody answers, or nobody who knows this user."""
    try:
        install.run(target, "kubectl", "get", "--raw", "/version", f"--request-timeout={ANSWER_S}s")
    except CommandFailed as failure:
        raise Missing(
            f"the cluster of context {target.name} gives no answer: {_end_of(failure)}"
        ) from failure


def ask_for_kuberay(target: Target) -> None:
    """Raises: Missing, with the command that installs it."""
    if not _serves(target, "ray.io", "rayclusters"):
        raise Missing(
            f"context {target.name} has no KubeRay (rayclusters.ray.io): `helm"
            f" {' '.join(kuberay_install())}` installs it."
        )


def kuberay_install() -> list[str]:
    """The words after `helm` that install KubeRay in the version that is tested here."""
    where = ["--namespace", "kuberay-system", "--create-namespace"]
    chart = ["kuberay-operator", "--repo", KUBERAY_CHART]
    version = ["--version", versions.KUBERAY.removeprefix("v")]
    return ["upgrade", "--install", "kuberay-operator", *chart, *version, *where, "--wait"]


def ask_for_rights(target: Target) -> None:
    """Raises: Missing when this user may not create and patch what is to be installed."""
    asked = [
        {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        for group, resource, namespace in RIGHTS
        for verb in ("create", "patch")
    ]
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": [_review(a) for a in asked]})
    show = ("-o", r"jsonpath={.status.allowed}{'\n'}")
    answers = install.run(target, "kubectl", "create", *show, "-f", "-", stdin=body).split()
    denied = [_told(a) for a, said in zip(asked, answers, strict=True) if said != "true"]
    if denied:
        raise Missing(
            f"this user may not, in context {target.name}: {', '.join(denied)}. Installing the"
            " chart needs the rights of a cluster's administrator."
        )


def ask_for_others(target: Target) -> None:
    """Raises: WrongUse when an operator or an example is there that was not made from here."""
    for found in _read(
        target, "deployments.apps", "-A", "-l", f"app.kubernetes.io/name={install.CHART.name}"
    ):
        notes = found["spec"]["template"]["metadata"].get("annotations", {})
        if install.FINGERPRINT not in notes:
            raise WrongUse(
                f"context {target.name} has an operator in namespace"
                f" {found['metadata']['namespace']} that was not installed from here, and two"
                " would quarrel: use that one with `dsjob submit`."
            )
    if not _serves(target, "dsjob.dev", "deepspeedjobs"):
        return
    for found in _read(target, JOBS, "-n", example.NAMESPACE):
        name, labels = found["metadata"]["name"], found["metadata"].get("labels", {})
        if name == example.job_name() and not LABELS.items() <= labels.items():
            raise WrongUse(
                f"{example.NAMESPACE} has a DeepSpeedJob {name} that the demo did not make, and"
                " would replace: delete it, or give it another name."
            )


def find_storage_class(target: Target, wanted: str) -> str:
    """The class for the example's ReadWriteMany claim: the one asked for, or the default.

    Raises: Missing when it is not there.
    """
    found = {each["metadata"]["name"]: each["metadata"] for each in _read(target, "storageclass")}
    there = f"there are: {', '.join(sorted(found)) or 'none'}"
    if wanted:
        if wanted not in found:
            raise Missing(f"context {target.name} has no storage class {wanted} ({there}).")
        return wanted
    defaults: list[tuple[str, str]] = [
        (meta["creationTimestamp"], name)
        for name, meta in found.items()
        if meta.get("annotations", {}).get(DEFAULT_CLASS) == "true"
    ]
    if not defaults:
        raise Missing(
            f"context {target.name} has no default storage class: STORAGE_CLASS=NAME names one"
            f" that can make ReadWriteMany volumes ({there})."
        )
    return max(defaults)[1]  # the newest, as Kubernetes chooses


def remove(target: Target) -> None:
    """Delete the demo's job and claim and uninstall the chart; nothing else is touched.

    Raises: WrongUse when the operator there was not installed from here.
    """
    ask_for_answer(target)
    ask_for_others(target)
    ours = ",".join(f"{name}={value}" for name, value in LABELS.items())
    kinds = [JOBS] if _serves(target, "dsjob.dev", "deepspeedjobs") else []
    where = ("-n", example.NAMESPACE, "-l", ours, f"--timeout={DELETION_S}s")
    for kind in (*kinds, "persistentvolumeclaims"):
        install.run(target, "kubectl", "delete", kind, *where)
    install.uninstall_chart(target)


def _pin(kubeconfig: str, context: str) -> str:
    """A list of kubeconfigs in which this context is the current one, whatever the user's says.

    kubectl and helm take the first file that names a current context; Python's client the last.
    """
    text = json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": context})
    pin = cache_dir() / "contexts" / digest(text)
    if not pin.exists():
        with written_whole(pin) as beside:
            beside.write_text(text)
    return os.pathsep.join([str(pin), kubeconfig, str(pin)])


def _serves(target: Reachable, group: str, resource: str) -> bool:
    """Whether the API server knows this resource; asked of discovery, which is open to all."""
    words = ("api-resources", f"--api-group={group}", "--no-headers", "-o", "name")
    return f"{resource}.{group}" in install.run(target, "kubectl", *words).split()


def _read(target: Reachable, kind: str, *words: str) -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = json.loads(
        install.run(target, "kubectl", "get", kind, "-o", "json", *words)
    )["items"]
    return found


def _review(asked: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }


def _told(asked: Mapping[str, str]) -> str:
    where = f" in {asked['namespace']}" if asked["namespace"] else ""
    return f"{asked['verb']} {asked['resource']}{where}"


def _end_of(failure: DevclusterError) -> str:
    """The last line of what a program said, without kubectl's prefix."""
    return str(failure).strip().splitlines()[-1].rpartition("error: ")[2]
