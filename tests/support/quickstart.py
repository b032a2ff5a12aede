"""The quickstart's job as tests need it: other arguments, a namespace of its own, storage read.

The claim is a folder of this machine (the dev cluster's volumes are), so what ranks wrote can be
read after their pods are gone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.eventually import eventually
from tests.support.installed import ROOT
from tests.support.kube import Kube, Object, condition

MANIFEST = ROOT / "examples" / "quickstart" / "job.yaml"
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

    @property
    def folder(self) -> Path:
        """The run's folder on the claim."""
        claim = self.kube.get("pvc", self.name, self.namespace)
        volume = self.kube.get("pv", claim["spec"]["volumeName"])
        root = Path(volume["spec"]["hostPath"]["path"])
        return root / str(self.job()["status"]["run"]["storagePath"])

    def events(self, attempt: int) -> list[dict[str, Any]]:
        """What the board noted in an attempt; empty before its first note."""
        path = self.folder / f"attempt-{attempt}" / "events.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def steps_done(self, attempt: int) -> int:
        """The last step that rank 0 printed."""
        path = self.folder / f"attempt-{attempt}" / "logs" / "rank-00000.log"
        if not path.exists():
            return 0
        return max(_steps(path.read_text().splitlines()), default=0)

    def worker_with_rank(self, rank: int) -> str:
        """The worker pod that runs a rank; with one rank a pod there is one that says so."""
        pods = self.kube.list("pods", self.namespace, "ray.io/node-type=worker")
        for pod in (str(found["metadata"]["name"]) for found in pods):
            if self._pids(pod, rank):
                return pod
        raise LookupError(f"no worker pod runs rank {rank}")

    def kill_rank(self, rank: int) -> str:
        """SIGKILL a rank's process, as the kernel would; returns its pod."""
        pod = self.worker_with_rank(rank)
        (pid,) = self._pids(pod, rank)
        self._python(pod, f"import os; os.kill({pid}, 9)")
        return pod

    def _pids(self, pod: str, rank: int) -> list[int]:
        words = self._python(pod, _FIND.format(rank=rank)).split()
        return [int(word) for word in words]

    def _python(self, pod: str, code: str) -> str:
        where = ("-n", self.namespace, pod, "-c", "ray-worker")
        return self.kube.run("exec", *where, "--", "python", "-c", code)


_FIND = """
import pathlib
for found in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (found / "cmdline").read_bytes().split(b"\\0")
        env = (found / "environ").read_bytes().split(b"\\0")
    except OSError:
        continue
    if b"train.py" in words and b"RANK={rank}" in env:
        print(found.name)
"""


def _steps(lines: list[str]) -> Iterator[int]:
    for line in lines:
        if "step " in line and "/" in line and " loss " in line:
            yield int(line.split("step ")[1].split("/")[0])


def start(kube: Kube, namespace: str, *args: str, **spec: Any) -> Run:
    """Apply the quickstart with these arguments of train.py and these fields of the spec."""
    claim, job = yaml.safe_load_all(MANIFEST.read_text())
    job["spec"]["entrypoint"]["args"] = list(args)
    job["spec"].update(spec)
    for each in (claim, job):
        each["metadata"]["namespace"] = namespace
    kube.apply(claim, job)
    return Run(kube, namespace, str(job["metadata"]["name"]))
