"""Install the operator from its chart on a dev cluster, as a platform engineer would: by Helm.

The demo and the tests share it, so the chart that they use is the chart that is shipped.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devcluster import images
from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError
from tools.images import OPERATOR, TRAINER

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "deepspeed-operator"
NAMESPACE = "deepspeed-system"
RELEASE = "deepspeed-operator"
ROLLOUT_S = 120


class CommandFailed(DevclusterError):
    """kubectl or helm said no; the message has its words."""


def run(cluster: Cluster, *command: str | Path, stdin: str | None = None) -> str:
    """Run kubectl or helm on a cluster and return what it printed. Raises: CommandFailed."""
    words = [str(word) for word in command]
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(
        words, env=environment, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise CommandFailed(f"{' '.join(words)}: {said}")
    return done.stdout


def helm(cluster: Cluster, *words: str | Path, values: Mapping[str, Any] | None = None) -> str:
    """Run helm with these values, if any. Raises: CommandFailed."""
    given = [] if values is None else ["--values", "-"]
    return run(cluster, "helm", *words, *given, stdin=json.dumps(values))


def dev_values() -> dict[str, Any]:
    """The values for images that were built here and are on the nodes already."""
    repository, _, tag = OPERATOR.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "trainerImage": TRAINER,
        "progressIntervalSeconds": 2,
        # The tag stays the same when the image is built anew; this makes the pod be replaced.
        "podAnnotations": {"image-fingerprint": images.resolve(OPERATOR).fingerprint},
    }


def install_chart(cluster: Cluster, values: Mapping[str, Any], namespace: str = NAMESPACE) -> None:
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


def await_operator(cluster: Cluster, namespace: str = NAMESPACE) -> None:
    """Wait until the operator's pod is ready. Raises: CommandFailed with its state and log."""
    where = ("-n", namespace)
    try:
        run(cluster, "kubectl", "rollout", "status", f"deployment/{RELEASE}", *where,
            f"--timeout={ROLLOUT_S}s")  # fmt: skip
    except CommandFailed as failure:
        pods = run(cluster, "kubectl", "get", "pods", "-o", "wide", *where)
        told = run(cluster, "kubectl", "get", "events", *where, "--sort-by=.lastTimestamp")
        raise CommandFailed(f"{failure}\n{pods}\n{told}") from failure
