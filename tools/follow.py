"""Follow a DeepSpeedJob to its end: a line for each change, and a report when there is none.

    end = Follower(cluster, "default", "quickstart").follow(deadline_s=900)

Nobody shall have to guess why nothing happens: after a quiet minute the conditions, the pods and
the last events are printed.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError, Refused
from tools.install import CommandFailed, run

GROUP = "dsjob.dev"
KIND = "deepspeedjobs.dsjob.dev"
POLL_S = 0.5
QUIET_S = 60.0
SHOWN_LINES = 10

Job = Mapping[str, Any]


class TooLate(DevclusterError):
    """The deadline passed before the job's end."""


def condition(job: Job, kind: str) -> Mapping[str, Any]:
    """The job's condition of this type; empty when it has none yet."""
    found = job.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


def is_true(job: Job, kind: str) -> bool:
    """Whether this condition holds."""
    return condition(job, kind).get("status") == "True"


def describe(job: Job) -> str:
    """One line: where the job is, how far and how fast."""
    status = job.get("status", {})
    progress = status.get("progress") or {}
    parts = [f"{status.get('phase', 'New'):<10}"]
    if progress.get("step"):
        total = progress.get("totalSteps")
        parts.append(f"step {progress['step']}{f'/{total}' if total else ''}")
        for key, label in (("loss", "loss"), ("samplesPerSecond", "samples/s")):
            if progress.get(key):
                parts.append(f"{label} {progress[key]}")
        parts += [f"{each['name']} {each['value']}" for each in progress.get("metrics", [])]
    else:
        ready = condition(job, "Ready")
        parts.append(f"{ready.get('reason', '')}: {ready.get('message', 'not seen yet')}")
    if status.get("restarts"):
        parts.append(f"restarts {status['restarts']}")
    return "  ".join(parts)


class Follower:
    """Watches one job."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        self.began = time.monotonic()
        self._api = cluster.control_plane.api()

    def follow(self, *, deadline_s: float) -> Job:
        """Print what happens until the job is finished, and return it as it is then.

        Raises: TooLate, after a report.
        """
        shown, changed_at = "", time.monotonic()
        for job in self._looks():
            now, line = time.monotonic(), describe(job)
            if line != shown:
                self.say(line)
                shown, changed_at = line, now
            if is_true(job, "Finished"):
                return job
            if now - self.began > deadline_s:
                self.report(job)
                raise TooLate(f"{self.name} did not finish within {deadline_s:.0f} s")
            if now - changed_at > QUIET_S:
                self.say(f"nothing new for {QUIET_S:.0f} s; this is how things are:")
                self.report(job)
                changed_at = now
        raise AssertionError

    def say(self, line: str) -> None:
        """Print a line with the time since the start."""
        print(f"[{time.monotonic() - self.began:6.1f}s] {line}", flush=True)

    def report(self, job: Job) -> None:
        """Print conditions, pods and events: what one would look for."""
        print(conditions_table(job))
        where = ("-n", self.namespace)
        for title, words in (
            ("pods", ("get", "pods", "-o", "wide", *where)),
            ("warnings", ("events", "--types=Warning", "--no-headers", *where)),
        ):
            try:
                lines = run(self.cluster, "kubectl", *words).splitlines()
            except CommandFailed as failure:
                lines = [str(failure)]
            print(f"  {title}:")
            print("\n".join(f"    {line[:200]}" for line in lines[-SHOWN_LINES:]) or "    none")

    def _looks(self) -> Iterator[Job]:
        path = f"/apis/{GROUP}/v1alpha1/namespaces/{self.namespace}/deepspeedjobs/{self.name}"
        while True:
            try:
                yield self._api.get(path)
            except OSError as error:
                self.say(f"the API server does not answer: {error}")
            except Refused as refusal:
                raise TooLate(f"{self.name} cannot be read any more: {refusal}") from refusal
            time.sleep(POLL_S)


def conditions_table(job: Job) -> str:
    """The job's conditions, a line each."""
    found = job.get("status", {}).get("conditions", [])
    rows = [f"    {c['type']:<14}{c['status']:<9}{c['reason']:<22}{c['message']}" for c in found]
    return "\n".join(["  conditions:", *(rows or ["    none yet"])])
