"""How long from apply to a RayCluster, and to the user's code, beside RayJob: `make bench`.

The systems take turns on one dev cluster with two real nodes, one job at a time, with the same
pods and the same program (programs/first_lines.py): a DeepSpeedJob with `entrypoint.driver`, and
RayJobs in both modes that people use. Seconds are wall time; all clocks are this machine's one
clock. CPU seconds are those of the controllers, KubeRay's and ours together.

Left out: pulling images (they are on the nodes), GPUs, queues. Both nodes share two cores here, so
what Ray itself needs is longer than on a real cluster, and the systems' differences weigh less.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepspeed_trainer.contract import CODE_MOUNT, STORAGE_MOUNT
from devcluster.cluster import Cluster, Options
from tests.support import figures, rivals
from tests.support.cluster import fresh_cluster
from tests.support.cpu import cpu_s, kuberay_pid, operator_pid
from tests.support.eventually import eventually
from tests.support.installed import ROOT
from tests.support.jobs import shared_home
from tests.support.kube import Kube, Object, kube_of
from tests.support.sight import Sight
from tools.images import OPERATOR, TRAINER
from tools.install import await_operator, dev_values, install_chart

NAME = NAMESPACE = CLAIM = "bench"
PROGRAM = Path(__file__).parent / "programs" / "first_lines.py"
FOLDER = f"{STORAGE_MOUNT}/first-lines"
OURS, K8S_JOB, HTTP = "DeepSpeedJob", f"RayJob {rivals.K8S_JOB}", f"RayJob {rivals.HTTP}"
KINDS = {OURS: "deepspeedjobs.dsjob.dev", K8S_JOB: "rayjobs.ray.io", HTTP: "rayjobs.ray.io"}
WITHIN_S = 240
SPANS = ("cluster", "program", "train")


@dataclass
class Times:
    """What was seen of one job, in seconds since the epoch, and what its controllers used."""

    seen: dict[str, float] = field(default_factory=dict)
    controllers_cpu_s: float = 0.0
    sample: Object = field(default_factory=dict)

    def note(self, fact: str, at: float) -> None:
        """The first time counts."""
        self.seen.setdefault(fact, at)

    def notice_cluster(self, found: Object, is_there: bool, at: float) -> None:
        """A RayCluster was seen; it is the only one in its namespace."""
        if is_there:
            self.note("cluster", at)
            self.sample = self.sample or found
            if found.get("status", {}).get("state") == "ready":
                self.note("ready", at)

    def notice_job(self, found: Object, is_there: bool, at: float) -> None:  # noqa: ARG002
        """A DeepSpeedJob was seen."""
        for attempt in found.get("status", {}).get("attempts", []):
            self.note(f"attempt {attempt['state']}", at)

    def since_apply(self) -> dict[str, float]:
        """Seconds from apply to each fact, and those of CPU."""
        began = self.seen["apply"]
        spans = {fact: round(at - began, 3) for fact, at in self.seen.items() if fact != "apply"}
        return {**spans, "controllers_cpu_s": round(self.controllers_cpu_s, 3)}


def our_job(name: str) -> Object:
    """The program as a driver, on two nodes."""
    small = {"cpu": "500m", "memory": "2Gi"}
    return {
        "apiVersion": "dsjob.dev/v1alpha1",
        "kind": "DeepSpeedJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodes": 2,
            "gpusPerNode": 1,
            "accelerator": {"type": "CPU"},
            "entrypoint": {"driver": PROGRAM.name, "args": [FOLDER, name]},
            "code": {"configMap": {"name": "code"}},
            "storage": {"volumeClaim": CLAIM},
            "failurePolicy": {"maxRestarts": 0},
            "head": {"resources": {"cpu": "200m", "memory": "3Gi"}},
            "worker": {"resources": small, "sharedMemory": "512Mi"},
        },
    }


def manifest(system: str, name: str, sample: Mapping[str, Any]) -> Object:
    """The job as this system takes it."""
    if system == OURS:
        return our_job(name)
    entrypoint = f"python {CODE_MOUNT}/{PROGRAM.name} {FOLDER} {name}"
    mode = system.removeprefix("RayJob ")
    return rivals.ray_job(sample, name, NAMESPACE, mode=mode, entrypoint=entrypoint)


def prepare(kube: Kube) -> Path:
    """Namespace, program and claim; returns the claim's folder on this machine."""
    metadata = {"name": "code", "namespace": NAMESPACE}
    data = {PROGRAM.name: PROGRAM.read_text()}
    code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    kube.apply(*shared_home(NAMESPACE), code)

    def volume() -> str | None:
        name = kube.get("pvc", CLAIM, NAMESPACE)["spec"].get("volumeName")
        return kube.get("pv", name)["spec"]["hostPath"]["path"] if name else None

    bound = eventually(volume, "the claim is bound")
    return Path(str(bound)) / Path(FOLDER).relative_to(STORAGE_MOUNT)


def read_time(file: Path) -> float | None:
    """The time in a file, None before it is there."""
    with suppress(FileNotFoundError):
        return float(file.read_text())
    return None


def run_one(cluster: Cluster, folder: Path, system: str, name: str, sample: Object) -> Times:
    """Apply a job, wait for its program's first lines, and clear everything away."""
    kube, times = kube_of(cluster), Times()
    job = json.dumps(manifest(system, name, sample))
    controllers = (kuberay_pid(cluster), operator_pid(cluster))
    before_s = sum(cpu_s(pid) for pid in controllers)
    with Sight(cluster) as sight:
        sight.watch("ray.io/v1", "rayclusters", NAMESPACE, times.notice_cluster)
        sight.watch("dsjob.dev/v1alpha1", "deepspeedjobs", NAMESPACE, times.notice_job)
        times.note("apply", time.time())
        kube.run("apply", "-f", "-", stdin=job)
        for fact in ("program", "train"):
            file = folder / f"{name}.{fact}"
            at = eventually(lambda: read_time(file), f"{name}: {fact}", within_s=WITHIN_S)  # noqa: B023
            times.note(fact, at)
        times.controllers_cpu_s = sum(cpu_s(pid) for pid in controllers) - before_s
    kube.delete(KINDS[system], name, NAMESPACE)
    for kind in ("rayclusters.ray.io", "pods"):
        eventually(lambda: not kube.list(kind, NAMESPACE), f"no {kind}", within_s=WITHIN_S)  # noqa: B023
    return times


def measure(cluster: Cluster, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the systems take turns; returns every run and what follows from them."""
    folder = prepare(kube_of(cluster))
    # The first run warms caches and gives the cluster that the rivals use; it does not count.
    sample = run_one(cluster, folder, OURS, "warm-up", {}).sample
    runs: list[dict[str, Any]] = []
    for number, turn in enumerate(figures.rounds((OURS, K8S_JOB, HTTP), count)):
        for system in turn:
            name = f"{system.split()[-1].lower()}-{number}"
            seconds = run_one(cluster, folder, system, name, sample).since_apply()
            runs.append({"round": number, "system": system, "seconds": seconds})
            say(f"{system}, round {number}: {seconds}")
    return {"runs": runs, **conclude(runs)}


def conclude(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Percentiles of each system, and ours beside each rival's of the same round."""

    def column(system: str, fact: str) -> list[float]:
        mine = [run for run in runs if run["system"] == system]
        return [run["seconds"][fact] for run in sorted(mine, key=lambda run: run["round"])]

    facts = (*SPANS, "controllers_cpu_s")
    # From apply to the RayCluster, and from its readiness, as KubeRay tells it, to the submission.
    own = [
        seconds["cluster"] + max(0.0, seconds["attempt Submitting"] - seconds["ready"])
        for seconds in (run["seconds"] for run in runs if run["system"] == OURS)
    ]
    return {
        "seconds_from_apply": {
            system: {fact: figures.summarize(column(system, fact)) for fact in facts}
            for system in (OURS, K8S_JOB, HTTP)
        },
        "ours_to": {
            rival: {
                fact: figures.compare(column(OURS, fact), column(rival, fact)) for fact in facts
            }
            for rival in (K8S_JOB, HTTP)
        },
        "operators_own_share_s": figures.summarize(own),
    }


def main() -> int:
    """Measure on a cluster of our own, which is gone afterwards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns of every system")
    count = parser.parse_args().rounds
    with fresh_cluster(NAME, Options(nodes=2), (OPERATOR, TRAINER)) as cluster:
        install_chart(cluster, dev_values())
        await_operator(cluster)
        result = measure(cluster, count, lambda line: print(line, flush=True))
    told_first = {"what": (__doc__ or "").splitlines()[0]}
    file = figures.publish("start", {**told_first, **result}, rivals.VERSIONS)
    told = {key: result[key] for key in ("seconds_from_apply", "ours_to", "operators_own_share_s")}
    print(json.dumps(told, indent=2))
    print(f"written to {file.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
