"""The whole path before your eyes: cluster, chart, job, training, result. `make demo` runs it.

Everything is done as a user would do it, by helm, kubectl and dsjob; images and programs have
been built before by tools/images.py. Exit code 0 means that the job is Complete. The cluster
stays up.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from devcluster import cluster as clusters
from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError, StepFailed
from tools import images, install, localdemo
from tools.ground import find_obstacle
from tools.images import OPERATOR, QUICKSTART, TRAINER

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "quickstart" / "job.yaml"
NAMESPACE = "default"
DEADLINE_S = 15 * 60
DSJOB = (sys.executable, "-m", "deepspeed_operator.cli")


def job_name() -> str:
    """The name of the example's job, as its manifest says."""
    documents = yaml.safe_load_all(EXAMPLE.read_text())
    return next(str(d["metadata"]["name"]) for d in documents if d["kind"] == "DeepSpeedJob")


def dsjob(cluster: Cluster, *words: str) -> int:
    """Run a verb of dsjob as a user would, before the reader's eyes; its exit code."""
    print(f"\n$ dsjob {' '.join(words)}", flush=True)
    environment = {**os.environ, **cluster.environment}
    return subprocess.run([*DSJOB, *words], env=environment, cwd=ROOT, check=False).returncode


def show_result(cluster: Cluster, name: str) -> None:
    """Print the job as kubectl and dsjob show it, and its whole status."""
    print(f"\n$ kubectl get dsjob {name} -o wide")
    where = ("-n", NAMESPACE)
    print(install.run(cluster, "kubectl", "get", "dsjob", name, *where, "-o", "wide"), flush=True)
    dsjob(cluster, "status", name, *where)
    job: dict[str, Any] = json.loads(
        install.run(cluster, "kubectl", "get", "dsjob", name, *where, "-o", "json")
    )
    print("\n  status:")
    status = yaml.safe_dump(job["status"], sort_keys=False, width=100, allow_unicode=True)
    print("\n".join(f"    {line}" for line in status.splitlines()))


def show_way_around(cluster: Cluster, name: str) -> None:
    """Print how to look around, and how to stop."""
    print(f"""
The cluster stays up. To look around:
  export KUBECONFIG={cluster.kubeconfig}
  kubectl get dsjob,rayclusters,pods
  dsjob status {name}
  kubectl logs -n {install.NAMESPACE} deployment/{install.RELEASE}
To train again: make demo        To stop: make down""")


def perform(cluster_name: str) -> int:
    """Run the demo on the cluster of this name, made if need be; the exit code."""
    began = time.monotonic()
    cluster = clusters.up(cluster_name, wanted=(OPERATOR, TRAINER, QUICKSTART))
    print(f"  the cluster is up after {time.monotonic() - began:.1f} s; installing the chart")
    install.install_chart(cluster, install.dev_values())
    install.await_operator(cluster)
    print(f"  the operator is ready after {time.monotonic() - began:.1f} s")
    name = job_name()
    example = str(EXAMPLE.relative_to(ROOT))
    follow = ("--anew", "--watch", "--timeout", str(DEADLINE_S))
    code = dsjob(cluster, "submit", "-f", example, "-n", NAMESPACE, *follow)
    show_result(cluster, name)
    show_way_around(cluster, name)
    total_s = time.monotonic() - began
    if code == 0:
        print(f"\n{name} is complete; {total_s:.0f} s in all.")
        return 0
    print(f"\n{name} is not complete after {total_s:.0f} s; why is said above.", file=sys.stderr)
    return 1


def main() -> int:
    """Run the demo that this machine can carry, and tell failures in one sentence."""
    parser = argparse.ArgumentParser(description="Train the example on an embedded cluster.")
    parser.add_argument("--name", default="demo", help="the cluster's name")
    arguments = parser.parse_args()
    obstacle = find_obstacle()
    try:
        if obstacle is not None:
            return localdemo.perform(obstacle)
        return images.main() or perform(arguments.name)
    except StepFailed:
        return 1  # told where it happened
    except DevclusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
