"""A lane: a namespace with an operator of its own, behind a proxy, and jobs that go through it.

Several lanes run side by side on one cluster. A lane plays every job to its end in the same way
and tells what was left of it, in words that do not depend on names, UIDs and times, so that the
ends of two jobs can be compared. The operator can be killed right after any of its writes.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from deepspeed_operator.api.names import derive_cluster_name
from deepspeed_trainer.contract import Cause
from devcluster.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.hands import Hands
from tests.support.head import Run
from tests.support.installed import HostOperator
from tests.support.jobs import CLUSTERS, PODS, SECRETS, LiveJob, home_of_jobs, small_job
from tests.support.kube import kube_of
from tests.support.proxy import ApiProxy

# Progress would be written by the clock, and a write more or less would make runs incomparable.
QUIET = {"DSJOB_PROGRESS_INTERVAL_SECONDS": "3600"}


@dataclass
class ProxiedOperator(HostOperator):
    """The operator on the host, with the proxy as its API server."""

    proxy: ApiProxy | None = None

    @override
    def _kubeconfig(self) -> Path:
        path = super()._kubeconfig()
        assert self.proxy is not None
        path.write_text(json.dumps(self.proxy.redirect(json.loads(path.read_text()))))
        return path

    @property
    def is_dead(self) -> bool:
        return self.process is not None and self.process.poll() is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was left of a job, in words that are the same for every job that went the same way."""

    status: Any
    submissions: Mapping[str, int]
    """How often each run was started."""
    children: tuple[str, ...]
    """What exists when all is over."""
    events: Mapping[str, int]
    refused: int
    """How often a head was offered a run that it had; it refuses, so that is no harm."""


@dataclass
class Lane:
    """One namespace and its operator."""

    cluster: Cluster
    hands: Hands
    namespace: str
    operator: ProxiedOperator
    proxy: ApiProxy
    kills: int = 0
    """How often the operator was killed."""
    _submitted: int = 0
    _strike_at_submission: int = 0

    def live_through(self, name: str, *, write: int = 0, submission: int = 0) -> LiveJob:
        """Play a job to its end, with the operator killed after this write or submission."""
        self._submitted, self._strike_at_submission = 0, submission
        self.hands.play(self.namespace, on_submission=self._hear, job=name)
        self.proxy.strike_after(write, self._kill, about=name)
        job = LiveJob(self.cluster, small_job(self.namespace, name)).apply()
        eventually(lambda: self._go_on(job), f"{name} is over", within_s=180)
        return job

    def _hear(self, run: Run) -> None:
        run.go_on(5, first_step=1)
        self._submitted += 1
        if self._submitted == self._strike_at_submission:
            self._kill()

    def _kill(self) -> None:
        self.kills += 1
        self.operator.kill()

    def _go_on(self, job: LiveJob) -> bool:
        """Do what is due: start a dead operator anew, end a run that is known to be running."""
        if self.operator.is_dead:
            self.operator.start()
            self.operator.await_ready()
        status = job.read().get("status", {})
        for attempt in status.get("attempts", []):
            if attempt["state"] == "Running":
                self._end(attempt)
        finished = any(
            found["type"] == "Finished" and found["status"] == "True"
            for found in status.get("conditions", [])
        )
        return finished and not job.children(CLUSTERS) and not job.children(PODS)

    def _end(self, attempt: Mapping[str, Any]) -> None:
        """The first attempt's run fails, the second one's succeeds."""
        head = self.hands.head_of(self.namespace, attempt["cluster"])
        run = next(run for run in head.runs if run.submission_id == attempt["submissionId"])
        if run.state != "RUNNING":
            return
        if attempt["number"] == 1:
            run.fail(Cause.SIGNAL, "rank 0 was ended by SIGKILL", step=5)
        else:
            run.succeed(10)

    def tell(self, job: LiveJob) -> Outcome:
        """What was left of a job that is over."""
        found = job.read()
        uid = found["metadata"]["uid"]
        words = {
            derive_cluster_name(job.name, uid, 1): "CLUSTER",
            uid: "UID",
            self.namespace: "NAMESPACE",
            job.name: "JOB",
        }
        heads = self.hands.heads_of_job(self.namespace, job.name)
        children = (
            f"{plural} {_plain(child['metadata']['name'], words)}"
            for plural in (CLUSTERS, PODS, SECRETS)
            for child in job.children(plural)
        )
        return Outcome(
            status=json.loads(_plain(json.dumps(found["status"]), words)),
            submissions=Counter(_plain(r.submission_id, words) for h in heads for r in h.runs),
            children=tuple(sorted(children)),
            events=Counter(_plain(text, words) for text in self._events(job)),
            refused=sum(len(head.refused) for head in heads),
        )

    def _events(self, job: LiveJob) -> list[str]:
        found = kube_of(self.cluster).list("events.events.k8s.io", self.namespace)
        return [
            f"{event['reason']}: {event['note']}"
            for event in found
            if event["regarding"].get("name") == job.name
        ]


def _plain(text: str, words: Mapping[str, str]) -> str:
    """Replace what differs from job to job."""
    for found, word in words.items():
        text = text.replace(found, word)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"CLUSTER-head-\w{5}", "HEAD", text)
    return re.sub(r'"headUid": "[-0-9a-f]{36}"', '"headUid": "ITS UID"', text)


@contextmanager
def open_lane(hands: Hands, folder: Path) -> Iterator[Lane]:
    """A lane whose operator is ready."""
    folder.mkdir()
    cluster = hands.cluster
    with ExitStack() as stack:
        namespace = stack.enter_context(home_of_jobs(kube_of(cluster), f"lane-{folder.name}"))
        proxy = stack.enter_context(ApiProxy(cluster, folder / "proxy"))
        settings = {**QUIET, "DSJOB_WATCH_NAMESPACES": namespace}
        operator = ProxiedOperator(cluster, folder, settings, proxy=proxy)
        operator.start()
        stack.callback(operator.stop)
        operator.await_ready()
        yield Lane(cluster, hands, namespace, operator, proxy)
