"""The whole path before your eyes: cluster, chart, job, training, result. `make demo` runs it.

Everything is done as a user would do it, by helm and kubectl; images and programs have been built
before by tools/images.py. Exit code 0 means that the job is Complete. The cluster stays up.
"""

import argparse
import sys
import time
from pathlib import Path

import yaml

from devcluster import cluster as clusters
from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError, StepFailed
from tools import install
from tools.follow import KIND, Follower, Job, conditions_table, is_true
from tools.images import OPERATOR, QUICKSTART, TRAINER

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "quickstart" / "job.yaml"
NAMESPACE = "default"
DEADLINE_S = 15 * 60.0


def job_name() -> str:
    """The name of the example's job, as its manifest says."""
    documents = yaml.safe_load_all(EXAMPLE.read_text())
    return next(str(d["metadata"]["name"]) for d in documents if d["kind"] == "DeepSpeedJob")


def apply_example(cluster: Cluster, name: str) -> None:
    """Apply the example; a job that is finished makes place, so that it trains anew."""
    where = ("-n", NAMESPACE)
    found = install.run(
        cluster, "kubectl", "get", KIND, name, *where, "--ignore-not-found", "-o", "yaml"
    )
    if found.strip() and is_true(yaml.safe_load(found), "Finished"):
        print(f"  {name} is there and finished: deleting it, to train again")
        install.run(cluster, "kubectl", "delete", KIND, name, *where)
    print(f"  kubectl apply -f {EXAMPLE.relative_to(ROOT)}")
    install.run(cluster, "kubectl", "apply", "-f", EXAMPLE, *where)


def show_result(cluster: Cluster, name: str, job: Job) -> None:
    """Print the finished job as kubectl shows it, and its whole status."""
    print(f"\n$ kubectl get dsjob {name} -o wide")
    print(install.run(cluster, "kubectl", "get", KIND, name, "-n", NAMESPACE, "-o", "wide"))
    print(conditions_table(job))
    print("\n  status:")
    status = yaml.safe_dump(job["status"], sort_keys=False, width=100, allow_unicode=True)
    print("\n".join(f"    {line}" for line in status.splitlines()))


def show_way_around(cluster: Cluster, name: str) -> None:
    """Print how to look around, and how to stop."""
    print(f"""
The cluster stays up. To look around:
  export KUBECONFIG={cluster.kubeconfig}
  kubectl get dsjob,rayclusters,pods
  kubectl describe dsjob {name}
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
    apply_example(cluster, name)
    job = Follower(cluster, NAMESPACE, name).follow(deadline_s=DEADLINE_S)
    show_result(cluster, name, job)
    show_way_around(cluster, name)
    total_s = time.monotonic() - began
    if is_true(job, "Complete"):
        print(f"\n{name} is complete; {total_s:.0f} s in all.")
        return 0
    tell_failure(job, name, total_s)
    return 1


def tell_failure(job: Job, name: str, total_s: float) -> None:
    """Print why the job failed, and the last words of the rank that failed first."""
    failure = job["status"].get("failure", {})
    cause = f"{failure.get('cause', 'see the conditions')}: {failure.get('message', '')}"
    tail = [f"    {line}" for line in failure.get("logTail", [])]
    told = [f"\n{name} failed after {total_s:.0f} s: {cause}", *tail]
    print("\n".join(told), file=sys.stderr)


def main() -> int:
    """Read the arguments and tell failures in one sentence."""
    parser = argparse.ArgumentParser(description="Train the example on an embedded cluster.")
    parser.add_argument("--name", default="demo", help="the cluster's name")
    arguments = parser.parse_args()
    try:
        return perform(arguments.name)
    except StepFailed:
        return 1  # told where it happened
    except DevclusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
