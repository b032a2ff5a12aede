"""One job as the policies see it: parsed spec and status beside what was observed.

Everything here is derived; nothing decides.
"""

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.names import ConditionType
from deepspeed_operator.api.types import (
    Attempt,
    Condition,
    DeepSpeedJobSpec,
    DeepSpeedJobStatus,
)
from deepspeed_operator.decide.observed import (
    ClusterFacts,
    Defaults,
    Observed,
    PodFacts,
    RunFacts,
    RunState,
)
from deepspeed_operator.errors import InvalidJob
from deepspeed_trainer.contract import Cause

OPEN_STATES = frozenset({"Opened", "Submitting", "Running"})


@dataclass(frozen=True, slots=True)
class View:
    """What a policy decides from."""

    job: JobFacts
    spec: DeepSpeedJobSpec
    status: DeepSpeedJobStatus
    observed: Observed
    defaults: Defaults
    now: datetime
    size_refusal: str | None = None
    """Why spec.nodes, as the user wants it, does not count for the open attempt."""

    @property
    def first_nodes(self) -> int | None:
        """Worker nodes of the run's first attempt, None before it opens."""
        return self.status.run.nodes if self.status.run else None

    @property
    def image(self) -> str:
        """Image of head and workers."""
        return self.spec.image or self.defaults.trainer_image

    @property
    def is_injected(self) -> bool:
        """Whether the trainer is brought into the image."""
        return bool(self.spec.image and self.defaults.injector_image)

    @property
    def world_size(self) -> int:
        """Ranks of an attempt."""
        return self.spec.nodes * self.spec.gpus_per_node

    @property
    def last_attempt(self) -> Attempt | None:
        """The newest attempt, open or not."""
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt that has not ended."""
        last = self.last_attempt
        return last if last is not None and last.state in OPEN_STATES else None

    @property
    def is_finished(self) -> bool:
        """Whether status records the end."""
        found = self.condition(ConditionType.FINISHED)
        return found is not None and found.status == "True"

    @property
    def cluster(self) -> ClusterFacts | None:
        """The RayCluster of the newest attempt."""
        last = self.last_attempt
        return next((c for c in self.observed.clusters if last and c.name == last.cluster), None)

    @property
    def pods(self) -> tuple[PodFacts, ...]:
        """Pods of the newest attempt's RayCluster."""
        last = self.last_attempt
        return tuple(p for p in self.observed.pods if last and p.cluster == last.cluster)

    @property
    def head(self) -> PodFacts | None:
        """The head pod that lives, or else one that is going."""
        heads = [p for p in self.pods if p.role == "head"]
        return next((p for p in heads if is_alive(p)), heads[0] if heads else None)

    @property
    def ready_workers(self) -> int:
        """Worker pods that are ready and not going."""
        workers = (p for p in self.pods if p.role == "worker" and not self._was_told_to_go(p))
        return sum(1 for p in workers if p.ready and is_alive(p))

    def _was_told_to_go(self, pod: PodFacts) -> bool:
        """A node that shuts down deletes no pod: until it ends, it looks as ever."""
        last = self.status.failure
        return last is not None and last.cause == Cause.PREEMPTED and last.node == pod.name

    @property
    def is_cluster_ready(self) -> bool:
        """Whether the head and all workers are ready."""
        head = self.head
        if head is None or head.ip is None or not head.ready or not is_alive(head):
            return False
        return self.ready_workers >= self.spec.nodes

    @property
    def run(self) -> RunFacts | None:
        """What the recorded head last said of the newest attempt."""
        last, run = self.last_attempt, self.observed.run
        if last is None or run is None or run.submission_id != last.submission_id:
            return None
        return run if run.head_uid == last.head_uid else None

    @property
    def run_state(self) -> RunState:
        """State of `run`; Unknown when nobody has asked yet."""
        return RunState.UNKNOWN if self.run is None else self.run.state

    def condition(self, kind: ConditionType) -> Condition | None:
        """Return a condition of the status as it was read."""
        return next((c for c in self.status.conditions if c.type == kind), None)


def is_alive(pod: PodFacts) -> bool:
    """Return whether a pod can still do work."""
    return not pod.deleting and pod.phase not in {"Failed", "Succeeded"}


def read_view(job: JobFacts, observed: Observed, defaults: Defaults, now: datetime) -> View:
    """Parse a job.

    Raises:
        InvalidJob: naming the first field that this operator does not understand.
    """
    try:
        spec = DeepSpeedJobSpec.model_validate(job.spec)
        status = DeepSpeedJobStatus.model_validate(job.status)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidJob(
            f"spec.{path}: {first['msg']}; is the CRD older or newer than the operator?"
        ) from error
    return View(job, spec, status, observed, defaults, now)
