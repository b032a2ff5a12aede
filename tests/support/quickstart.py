"""The quickstart's job as tests need it: other arguments, a namespace of its own, storage read.

What ranks wrote is read by a pod that mounts their claim, as this works on every cluster.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from deepspeed_trainer.contract import STORAGE_MOUNT
from tests.support.claim import Claim
from tests.support.eventually import eventually
from tests.support.kube import Kube, Object, condition
from tools import example
from tools.target import Target

JOB = "deepspeedjobs.dsjob.dev"


@dataclass(frozen=True)
class Run:
    """A quickstart job in the cluster."""

    kube: Kube
    namespace: str
    name: str = "quickstart"

    def job(self) -> Object:
        return self.kube.get(JOB, self.name, self.namespace)

    def await_condition(self, kind: str, *, within_s: float = 300) -> Object:
        """Wait for a condition to hold, or for the job's end, and return the job."""

        def holds() -> Object | None:
            job = self.job()
            done = [condition(job, each)["status"] == "True" for each in (kind, "Finished")]
            return job if any(done) else None

        job = eventually(holds, f"{self.name} is {kind}", within_s=within_s)
        assert condition(job, kind)["status"] == "True", yaml.safe_dump(job["status"])
        return job

    @cached_property
    def claim(self) -> Claim:
        """What lies on the job's claim."""
        spec = self.job()["spec"]
        return Claim(self.kube, self.namespace, spec["storage"]["volumeClaim"], spec["image"])

    def read(self, path: str) -> str | None:
        """A file of the run, or None while there is none."""
        return self.claim.read(f"{self.job()['status']['run']['storagePath']}/{path}")

    def events(self, attempt: int) -> list[dict[str, Any]]:
        """What the board noted in an attempt; empty before its first note."""
        text = self.read(f"attempt-{attempt}/events.jsonl") or ""
        return [json.loads(line) for line in text.splitlines()]

    def kill_rank(
        self, rank: int, *, after_step: int, attempt: int = 1, supervisor: bool = False
    ) -> str:
        """SIGKILL a rank's process as soon as rank 0 has printed a step; returns its pod.

        Or that of its supervisor.  The wait is inside the pods: from outside, the step would be
        long over.
        """
        pods = [p["metadata"]["name"] for p in self._workers()]
        folder = f"{STORAGE_MOUNT}/{self.job()['status']['run']['storagePath']}/attempt-{attempt}"
        log = f"{folder}/logs/rank-00000.log"
        code = _KILL.format(rank=rank, log=log, step=after_step, supervisor=supervisor)
        with ThreadPoolExecutor(len(pods)) as pool:
            answers = list(pool.map(lambda pod: self._python(pod, code), pods))
        (victim,) = [pod for pod, said in zip(pods, answers, strict=True) if "killed" in said]
        return str(victim)

    def _workers(self) -> list[Object]:
        return self.kube.list("pods", self.namespace, "ray.io/node-type=worker")

    def _python(self, pod: str, code: str) -> str:
        where = ("-n", self.namespace, pod, "-c", "ray-worker")
        return self.kube.run("exec", *where, "--", "python", "-c", code)


_KILL = """
import os, pathlib, time

def is_victim(process):
    try:
        words = (process / "cmdline").read_bytes().split(b"\\0")
        env = (process / "environ").read_bytes().split(b"\\0")
        return b"train.py" in words and b"RANK={rank}" in env
    except OSError:
        return False

log = pathlib.Path("{log}")
while not (log.exists() and "step {step}/" in log.read_text()):
    time.sleep(0.02)
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if is_victim(process):
        parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(parent if {supervisor} else process.name), 9)
        print("killed", process.name)
"""


def start(kube: Kube, namespace: str, *args: str, target: Target | None = None, **spec: Any) -> Run:
    """Apply the quickstart with these arguments of train.py and these fields of the spec.

    With a target it is fitted to that cluster; without, it is as in the file.
    """
    documents = example.read_documents()
    claim, job = example.fit(documents, target) if target else documents
    job["spec"]["entrypoint"]["args"] = list(args)
    job["spec"].update(spec)
    for each in (claim, job):
        each["metadata"]["namespace"] = namespace
    kube.apply(claim, job)
    return Run(kube, namespace, str(job["metadata"]["name"]))
