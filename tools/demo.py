"""The whole path before your eyes: cluster, chart, job, training, result. `make demo` runs it.

Everything is done as a user would do it, by helm, kubectl and dsjob; images and programs have
been built before by tools/images.py. Exit code 0 means that the job is Complete. The cluster
stays up, and on one that was there before the chart stays installed.
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

from devcluster.errors import DevclusterError, Missing, StepFailed
from tools import cluster, example, images, install, localdemo
from tools.choice import DEVCLUSTER, read_choice
from tools.example import NAMESPACE
from tools.ground import find_obstacle
from tools.target import Target

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 15 * 60
DSJOB = (sys.executable, "-m", "deepspeed_operator.cli")


def dsjob(target: Target, *words: str) -> int:
    """Run a verb of dsjob as a user would, before the reader's eyes; its exit code."""
    print(f"\n$ dsjob {' '.join(words)}", flush=True)
    environment = {**os.environ, **target.environment}
    return subprocess.run([*DSJOB, *words], env=environment, cwd=ROOT, check=False).returncode


def show_result(target: Target, name: str) -> None:
    """Print the job as kubectl and dsjob show it, and its whole status."""
    print(f"\n$ kubectl get dsjob {name} -o wide")
    where = ("-n", NAMESPACE)
    print(install.run(target, "kubectl", "get", "dsjob", name, *where, "-o", "wide"), flush=True)
    dsjob(target, "status", name, *where)
    job: dict[str, Any] = json.loads(
        install.run(target, "kubectl", "get", "dsjob", name, *where, "-o", "json")
    )
    print("\n  status:")
    status = yaml.safe_dump(job["status"], sort_keys=False, width=100, allow_unicode=True)
    print("\n".join(f"    {line}" for line in status.splitlines()))


def show_way_around(target: Target, name: str) -> None:
    """Print how to look around, and how to stop."""
    words = f" {target.words}" if target.words else ""
    print(f"""
The cluster stays up, with the chart on it. To look around:
  {target.way_in}
  kubectl get dsjob,rayclusters,pods
  dsjob status {name}
  kubectl logs -n {install.NAMESPACE} deployment/{install.RELEASE}
To train again: make demo{words}        To remove all of it: make down{words}""")


def perform(cluster_name: str) -> int:
    """Run the demo on the chosen cluster, made if need be and by this name; the exit code."""
    began = time.monotonic()
    target = cluster.up(cluster_name)
    print(f"  the cluster is up after {time.monotonic() - began:.1f} s; installing the chart")
    install.install_chart(target, install.dev_values(target.images))
    install.await_operator(target)
    print(f"  the operator is ready after {time.monotonic() - began:.1f} s")
    name = example.job_name()
    manifest = str(example.manifest_for(target).relative_to(ROOT))
    follow = ("--anew", "--watch", "--timeout", str(DEADLINE_S))
    code = dsjob(target, "submit", "-f", manifest, "-n", NAMESPACE, *follow)
    show_result(target, name)
    show_way_around(target, name)
    total_s = time.monotonic() - began
    if code == 0:
        print(f"\n{name} is complete; {total_s:.0f} s in all.")
        return 0
    print(f"\n{name} is not complete after {total_s:.0f} s; why is said above.", file=sys.stderr)
    return 1


def main() -> int:
    """Run the demo that this machine can carry, and tell failures in one sentence."""
    parser = argparse.ArgumentParser(description="Train the example on the chosen cluster.")
    parser.add_argument("--name", default=cluster.DEFAULT, help="the name of a cluster made here")
    arguments = parser.parse_args()
    try:
        obstacle = find_obstacle()
        if obstacle is None:
            images.provide(images.demo_steps())
            return perform(arguments.name)
        if read_choice().cluster == DEVCLUSTER:
            return localdemo.perform(obstacle)
        raise Missing(f"{obstacle}.")
    except StepFailed:
        return 1  # told where it happened
    except DevclusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
