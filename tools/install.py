"""Install the operator from its chart on a cluster, as a platform engineer would: by Helm.

The demo and the tests share it, so the chart that they use is the chart that is shipped.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devcluster import images
from devcluster.errors import DevclusterError
from tools.images import OPERATOR
from tools.target import Images, Reachable

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "deepspeed-operator"
NAMESPACE = "deepspeed-system"
RELEASE = "deepspeed-operator"
ROLLOUT_S = 120
FINGERPRINT = "image-fingerprint"
"""The annotation of the operator's pod by which an installation of ours is known."""


class CommandFailed(DevclusterError):
    """kubectl or helm said no; the message has its words."""


def run(cluster: Reachable, *command: str | Path, stdin: str | None = None) -> str:
    """Run kubectl or helm on a cluster and return what it printed. Raises: CommandFailed."""
    words = [str(word) for word in command]
    environment = {**os.environ, **cluster.environment}
    try:
        done = subprocess.run(
            words, env=environment, input=stdin, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{words[0]} is not on PATH: `make setup` provides it") from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise CommandFailed(f"{' '.join(words)}: {said}")
    return done.stdout


def helm(cluster: Reachable, *words: str | Path, values: Mapping[str, Any] | None = None) -> str:
    """Run helm with these values, if any. Raises: CommandFailed."""
    given = [] if values is None else ["--values", "-"]
    return run(cluster, "helm", *words, *given, stdin=json.dumps(values))


def dev_values(pictures: Images | None = None) -> dict[str, Any]:
    """The values for images that were built from this tree, as the cluster's nodes call them."""
    pictures = pictures or Images()
    repository, _, tag = pictures.operator.rpartition(":")
    built = images.built(OPERATOR)
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": pictures.pull_policy},
        "trainerImage": pictures.trainer,
        "progressIntervalSeconds": 2,
        # The tag stays the same when the image is built anew; this makes the pod be replaced.
        "podAnnotations": {FINGERPRINT: built.fingerprint if built else "built elsewhere"},
    }


def install_chart(
    cluster: Reachable, values: Mapping[str, Any], namespace: str = NAMESPACE
) -> None:
    """Install or upgrade the chart; returns when the API server has its objects."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    home = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": labels},
    }
    apply = ("kubectl", "apply", "--server-side", "--force-conflicts", "-f")
    run(cluster, *apply, "-", stdin=json.dumps(home))
    # Helm installs what is in crds/ and never upgrades it; done in its name, it sees no conflict.
    run(cluster, *apply, CHART / "crds", "--field-manager=helm")
    helm(cluster, "upgrade", "--install", RELEASE, CHART, "-n", namespace, values=values)


def await_operator(cluster: Reachable, namespace: str = NAMESPACE) -> None:
    """Wait until the operator's pod is ready. Raises: CommandFailed with its state and log."""
    where = ("-n", namespace)
    try:
        run(cluster, "kubectl", "rollout", "status", f"deployment/{RELEASE}", *where,
            f"--timeout={ROLLOUT_S}s")  # fmt: skip
    except CommandFailed as failure:
        pods = run(cluster, "kubectl", "get", "pods", "-o", "wide", *where)
        told = run(cluster, "kubectl", "get", "events", *where, "--sort-by=.lastTimestamp")
        raise CommandFailed(f"{failure}\n{pods}\n{told}") from failure


def uninstall_chart(cluster: Reachable, namespace: str = NAMESPACE) -> None:
    """Remove the release, if it is there; its namespace, the CRD and all jobs stay."""
    helm(cluster, "uninstall", RELEASE, "-n", namespace, "--ignore-not-found", "--wait")
