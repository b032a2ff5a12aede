"""Fluent builders of what decisions are made from: `a_job().with_nodes(4)`, `a_head_pod()`.

They build facts as watch/ would trim them, so a test reads like a sentence about the world.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from deepspeed_operator.api.job import JobFacts, JobKey, Uid
from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.decide.observed import (
    ClaimFacts,
    ClusterFacts,
    Defaults,
    Exit,
    Observed,
    PodFacts,
    Prerequisites,
    RunFacts,
    RunState,
    Waiting,
)
from deepspeed_trainer.contract import Failure, Progress

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
DEFAULTS = Defaults(
    trainer_image="registry.example/trainer:1", injector_image="registry.example/operator:1"
)
SHARED = ClaimFacts(access_modes=("ReadWriteMany",), phase="Bound")
MET = Prerequisites(
    kuberay_served=True,
    config_maps={},
    claims={"runs": SHARED},
    largest_device_count=8,
)


def after(seconds: float) -> datetime:
    """Return the moment that many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


@dataclass(frozen=True)
class JobBuilder:
    spec: dict[str, Any] = field(
        default_factory=lambda: {
            "nodes": 2,
            "gpusPerNode": 1,
            "accelerator": {"type": "CPU"},
            "entrypoint": {"script": "train.py"},
            "storage": {"volumeClaim": "runs"},
        }
    )
    status: dict[str, Any] = field(default_factory=dict)
    name: str = "demo"
    deleting: bool = False

    def with_spec(self, **fields: Any) -> "JobBuilder":
        return replace(self, spec={**self.spec, **fields})

    def without(self, name: str) -> "JobBuilder":
        return replace(self, spec={k: v for k, v in self.spec.items() if k != name})

    def with_restarts(self, most: int, backoff_s: int = 0) -> "JobBuilder":
        policy = {"maxRestarts": most, "backoffSeconds": backoff_s}
        return self.with_spec(failurePolicy=policy)

    def with_status(self, status: DeepSpeedJobStatus | None) -> "JobBuilder":
        if status is None:
            return self
        raw = status.model_dump(by_alias=True, exclude_none=True, mode="json")
        return replace(self, status=raw)

    def build(self) -> JobFacts:
        return JobFacts(
            key=JobKey("team-a", self.name),
            uid=Uid("11111111-2222-3333-4444-555555555555"),
            generation=1,
            resource_version="1",
            deleting=self.deleting,
            spec=self.spec,
            status=self.status,
        )


def a_job(name: str = "demo") -> JobBuilder:
    return JobBuilder(name=name)


def a_cluster(name: str, *, deleting: bool = False, failure: str | None = None) -> ClusterFacts:
    return ClusterFacts(
        name=name,
        uid=Uid(f"uid-of-{name}"),
        created=NOON,
        deleting=deleting,
        failure_message=failure,
    )


def a_pod(cluster: str, role: str, number: int = 0, **facts: Any) -> PodFacts:
    ready = PodFacts(
        name=f"{cluster}-{role}-{number}",
        uid=Uid(f"uid-of-{cluster}-{role}-{number}"),
        cluster=cluster,
        role="head" if role == "head" else "worker",
        created=NOON,
        deleting=False,
        phase="Running",
        ready=True,
        ip=f"10.0.0.{number + 1}",
        node=f"node{number}",
        waiting=None,
        exit=None,
        unschedulable=None,
    )
    return replace(ready, **facts)


def waiting_for(reason: str, message: str = "") -> dict[str, Any]:
    return {
        "phase": "Pending",
        "ready": False,
        "waiting": Waiting(reason, message),
    }


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"phase": "Failed", "ready": False, "exit": Exit(reason, code, "")}


def ready_pods(cluster: str, workers: int = 2) -> tuple[PodFacts, ...]:
    pods = [a_pod(cluster, "head")]
    pods += [a_pod(cluster, "worker", n + 1) for n in range(workers)]
    return tuple(pods)


def a_run(
    submission: str,
    head: PodFacts,
    state: RunState,
    *,
    step: int | None = None,
    failure: Failure | None = None,
    error: str | None = None,
) -> RunFacts:
    progress = None
    if step is not None or failure is not None:
        progress = Progress(
            submission_id=submission, attempt=1, step=step or 0, failure=failure, world_size=2
        )
    return RunFacts(submission, head.uid, state, None, progress, error)


def observed(**facts: Any) -> Observed:
    return Observed(**{"prerequisites": MET, **facts})
