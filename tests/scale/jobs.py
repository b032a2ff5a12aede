"""Many jobs at once on fake nodes, beside plain RayClusters and RayJobs: `make scale`.

Each job is a RayCluster of one head and three workers. The systems run one after the other on one
cluster without kubelets: RayClusters alone, which is what KubeRay can do at best; DeepSpeedJobs,
until every status says Running; RayJobs in HTTPMode, until every one is RUNNING. Then the
operator is killed and started again among its jobs.

Nothing is behind the heads (tests/scale/heads.py), so this measures controllers alone: KubeRay's
and ours share two cores with the API server, etcd and kwok here. K8sJobMode is left out, because
no pod runs here that could submit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.client import CustomObjectsApi
from kubernetes.client.exceptions import ServiceException
from kubernetes.config import new_client_from_config

from devcluster import fakenodes
from devcluster.cluster import Cluster, Options
from tests.support import cpu, figures, rivals
from tests.support.audit import AuditLog
from tests.support.cluster import fresh_cluster
from tests.support.eventually import eventually
from tests.support.installed import ROOT, USER, HostOperator, operator_on_host
from tests.support.jobs import shared_home
from tests.support.kube import Object, condition, kube_of
from tests.support.sight import Sight
from tools.install import install_chart

NAME = NAMESPACE = CLAIM = "scale"
IMAGE = "localhost/trainer:1"
WORKERS, PODS_A_NODE = 3, 100
ALONE, OURS, RAY_JOB = "RayCluster alone", "DeepSpeedJob", f"RayJob {rivals.HTTP}"
RESOURCES = {
    ALONE: ("ray.io/v1", "rayclusters"),
    OURS: ("dsjob.dev/v1alpha1", "deepspeedjobs"),
    RAY_JOB: ("ray.io/v1", "rayjobs"),
}
HANDS = 8  # threads that apply
SETTLE_S = 60.0
LOOK_S = 0.5


def is_ready(cluster: Object) -> bool:
    """Whether all pods of a RayCluster run."""
    return bool(cluster.get("status", {}).get("state") == "ready")


def runs(job: Object) -> bool:
    """Whether a job of ours says that it is running."""
    try:
        return bool(condition(job, "Running")["status"] == "True")
    except LookupError:
        return False


def ray_job_runs(job: Object) -> bool:
    """Whether a RayJob says so."""
    return bool(job.get("status", {}).get("jobStatus") == "RUNNING")


SAYS = {ALONE: is_ready, OURS: runs, RAY_JOB: ray_job_runs}


@dataclass
class Roll:
    """Which objects are there, and which of them are as they should be, with the last time."""

    is_good: Callable[[Object], bool]
    there: set[str] = field(default_factory=set)
    good: set[str] = field(default_factory=set)
    since: float = 0.0

    def notice(self, found: Object, is_there: bool, at: float) -> None:
        """An object was seen."""
        name = found["metadata"]["name"]
        if not is_there:
            self.there.discard(name)
            self.good.discard(name)
            return
        self.there.add(name)
        if name not in self.good and self.is_good(found):
            self.good.add(name)
            self.since = at


def our_job(name: str) -> Object:
    """A job of three workers that any fake node can take."""
    small = {"resources": {"cpu": "100m", "memory": "2Gi"}}
    return {
        "apiVersion": "dsjob.dev/v1alpha1",
        "kind": "DeepSpeedJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodes": WORKERS,
            "gpusPerNode": 1,
            "accelerator": {"type": "CPU"},
            "image": IMAGE,
            "entrypoint": {"script": "train.py"},
            "storage": {"volumeClaim": CLAIM},
            "head": small,
            "worker": small,
        },
    }


def manifest(system: str, name: str, sample: Mapping[str, Any]) -> Object:
    """The object that this system takes."""
    if system == OURS:
        return our_job(name)
    if system == ALONE:
        return rivals.plain_cluster(sample, name, NAMESPACE)
    return rivals.ray_job(sample, name, NAMESPACE, mode=rivals.HTTP, entrypoint="python train.py")


class Stage:
    """The cluster, and how to put many objects on it."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.cluster, self.count = cluster, count
        self.kube, self.audit = kube_of(cluster), AuditLog(cluster.audit_log)
        self._api = CustomObjectsApi(new_client_from_config(str(cluster.kubeconfig)))

    def prepare(self) -> None:
        """The namespace and the claim; and fake nodes take any pod, for there are no others."""
        self.kube.run("taint", "nodes", "--all", f"{fakenodes.KEY}:NoSchedule-")
        self.kube.apply(*shared_home(NAMESPACE))

    def create(self, system: str, sample: Mapping[str, Any]) -> None:
        """Create all objects of a system, some at once."""
        group, _, version = RESOURCES[system][0].partition("/")

        def create_one(number: int) -> None:
            body = manifest(system, f"job-{number:05}", sample)
            self._api.create_namespaced_custom_object(
                group, version, NAMESPACE, RESOURCES[system][1], body
            )

        with ThreadPoolExecutor(HANDS) as pool:
            for _ in pool.map(create_one, range(self.count)):
                pass

    def clear(self, sight: Sight, system: str, clusters_seen: Roll) -> None:
        """Delete all objects of a system, and wait until their clusters and pods are gone."""
        group, _, version = RESOURCES[system][0].partition("/")
        kind = (group, version, NAMESPACE, RESOURCES[system][1])

        def deleted() -> bool:
            # A thousand take longer than the API server gives one request; it goes on meanwhile.
            with suppress(ServiceException):
                self._api.delete_collection_namespaced_custom_object(
                    *kind, propagation_policy="Background"
                )
            return not self._api.list_namespaced_custom_object(*kind, limit=1)["items"]

        self.await_fact(sight, deleted, f"no {system} is left")
        self.await_fact(sight, lambda: not clusters_seen.there, "no RayCluster is left")
        self.await_fact(sight, lambda: not self.kube.list("pods", NAMESPACE), "no pod is left", 5.0)

    def await_fact(
        self, sight: Sight, holds: Callable[[], bool], what: str, look_s: float = LOOK_S
    ) -> None:
        """Wait as long as it takes; tells now and then what for."""
        told = began = time.monotonic()
        while not holds():
            sight.check()
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"  … {told - began:.0f} s: {what}", flush=True)
            time.sleep(look_s)

    def writes(self, since: int) -> dict[str, int]:
        """What the operator wrote since then, by verb and kind."""
        found = Counter(f"{c.verb} {c.kind}" for c in self.audit.writes_by(USER, since=since))
        return dict(found.most_common())


def take_sample(stage: Stage) -> Object:
    """The RayCluster that the operator makes of such a job."""
    seen: list[Object] = []
    with Sight(stage.cluster) as sight:
        sight.watch("ray.io/v1", "rayclusters", NAMESPACE, lambda found, *_: seen.append(found))
        stage.kube.apply(our_job("sample"))
        eventually(lambda: seen, "the operator makes a RayCluster")
        stage.kube.delete("deepspeedjobs.dsjob.dev", "sample", NAMESPACE)
        eventually(lambda: not stage.kube.list("rayclusters.ray.io", NAMESPACE), "it is gone")
    return seen[0]


def run_system(
    stage: Stage,
    system: str,
    sample: Mapping[str, Any],
    then: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Create all objects, wait until all are good, do what comes `then`, and delete them."""
    print(f"{system}: {stage.count}", flush=True)
    ready, good = Roll(is_ready), Roll(SAYS[system])
    kuberay = cpu.kuberay_pid(stage.cluster)
    before_s = cpu.cpu_s(kuberay)
    with Sight(stage.cluster) as sight:
        sight.watch("ray.io/v1", "rayclusters", NAMESPACE, ready.notice)
        sight.watch(*RESOURCES[system], NAMESPACE, good.notice)
        began = time.time()
        stage.create(system, sample)
        created = time.time()
        for roll, what in ((ready, "clusters are ready"), (good, f"{system}s say so")):
            fact = f"{stage.count} {what}"
            stage.await_fact(sight, lambda: len(roll.good) >= stage.count, fact)  # noqa: B023
        result = {
            "created_s": round(created - began, 1),
            "all_clusters_ready_s": round(ready.since - began, 1),
            "all_statuses_true_s": round(good.since - began, 1),
            "kuberay_cpu_s": round(cpu.cpu_s(kuberay) - before_s, 1),
            **then(),
        }
        print(f"  {result}", flush=True)
        stage.clear(sight, system, ready)
    return result


def restart(stage: Stage, operator: HostOperator) -> dict[str, Any]:
    """Kill the operator among its jobs, start it again, and see what it writes in a minute."""
    time.sleep(SETTLE_S)  # the last figures of a start are still being written
    operator.kill()
    mark, began = stage.audit.end(), time.monotonic()
    operator.start()
    operator.await_ready()
    ready_s = time.monotonic() - began
    time.sleep(SETTLE_S)
    return {"ready_s": round(ready_s, 1), "writes_within_a_minute": stage.writes(mark)}


@contextmanager
def heads() -> Iterator[None]:
    """The heads of all jobs, in a process of their own."""
    process = subprocess.Popen([sys.executable, "-m", "tests.scale.heads"], cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def measure(cluster: Cluster, count: int, folder: Path) -> dict[str, Any]:
    """All systems, one after the other."""
    stage = Stage(cluster, count)
    stage.prepare()
    with operator_on_host(cluster, folder) as operator:
        sample = take_sample(stage)
        result = {ALONE: run_system(stage, ALONE, sample)}
        mark = stage.audit.end()
        before_s = cpu.cpu_s(_pid(operator))

        def look_closer() -> dict[str, Any]:
            pid = _pid(operator)
            return {
                "operator_cpu_s": round(cpu.cpu_s(pid) - before_s, 1),
                "operator_peak_mib": round(cpu.peak_memory_bytes(pid) / (1 << 20)),
                "operator_writes": stage.writes(mark),
                "restart": restart(stage, operator),
            }

        result[OURS] = run_system(stage, OURS, sample, look_closer)
        result[RAY_JOB] = run_system(stage, RAY_JOB, sample)
    return result


def _pid(operator: HostOperator) -> int:
    assert operator.process is not None, "it has been started"
    return operator.process.pid


def main() -> int:
    """Measure on a cluster of our own, which is gone afterwards."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of every system")
    count = parser.parse_args().jobs
    # One node more than the pods fill, and no fewer than the workers of a job, which keep apart.
    nodes = max(-(-count * (WORKERS + 1) // PODS_A_NODE), WORKERS) + 1
    with fresh_cluster(NAME, Options(nodes=0, fake_nodes=nodes)) as cluster:
        install_chart(cluster, {"trainerImage": IMAGE})
        with heads(), tempfile.TemporaryDirectory() as folder:
            systems = measure(cluster, count, Path(folder))
    told = {"what": summary, "jobs": count, "systems": systems}
    file = figures.publish("jobs", told, rivals.VERSIONS)
    print(json.dumps(systems, indent=2))
    print(f"written to {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
