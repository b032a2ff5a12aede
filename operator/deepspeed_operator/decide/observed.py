"""What goes in: frozen facts about the world, as far as decisions need them.

Absent is None, never an exception.  Facts are trimmed by watch/, where the raw objects end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from deepspeed_operator.api.job import JobFacts, JobKey, Uid
from deepspeed_trainer.contract import CodeReport, Progress

__all__ = [
    "ClaimFacts",
    "ClusterFacts",
    "Defaults",
    "Exit",
    "JobFacts",
    "JobKey",
    "Observed",
    "PodFacts",
    "Prerequisites",
    "RunFacts",
    "RunState",
    "Uid",
    "Waiting",
    "Wanted",
]


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """A RayCluster that this job owns."""

    name: str
    uid: Uid
    created: datetime
    deleting: bool
    failure_message: str | None
    """KubeRay's ReplicaFailure, in its words."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container (or init container) does not run yet."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended."""

    reason: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod of one of the job's RayClusters."""

    name: str
    uid: Uid
    cluster: str
    role: Literal["head", "worker"]
    created: datetime
    deleting: bool
    phase: str
    ready: bool
    ip: str | None
    node: str | None
    waiting: Waiting | None
    exit: Exit | None
    unschedulable: str | None
    """The scheduler's words."""
    code: CodeReport | None = None
    """What its fetcher said when it ended; None without one, or before."""


class RunState(StrEnum):
    """What a head says of a submission id."""

    UNKNOWN = "Unknown"
    """The head could not be asked; `RunFacts.error` says why."""
    DENIED = "Denied"
    """The head refuses the token."""
    NOT_FOUND = "NotFound"
    """The head knows no such submission."""
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The last answer of a head about one submission."""

    submission_id: str
    head_uid: Uid
    state: RunState
    message: str | None
    """Ray's own message about the job."""
    progress: Progress | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """A PersistentVolumeClaim."""

    access_modes: tuple[str, ...]
    phase: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the next pass needs to know beyond the caches; None or False means not to look."""

    kuberay: bool = False
    config_maps: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Prerequisites:
    """Answers to Wanted, read from the API server when asked; what nobody wanted is not there."""

    kuberay_served: bool | None
    config_maps: Mapping[str, Mapping[str, str] | None]
    """Data of each wanted ConfigMap; None for one that does not exist."""
    claims: Mapping[str, ClaimFacts | None]
    """Each wanted claim; None for one that does not exist."""
    largest_device_count: int | None
    """Most devices of the wanted resource that one node offers."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All facts of one pass."""

    clusters: tuple[ClusterFacts, ...] = ()
    pods: tuple[PodFacts, ...] = ()
    run: RunFacts | None = None
    prerequisites: Prerequisites | None = None
    """None when the pass wanted nothing."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the platform set for every job."""

    trainer_image: str
    injector_image: str = ""
    """Whose trainer goes into images that jobs name; empty: nobody's."""
    progress_interval_s: int = 30
    capacity_check: bool = True
    """Whether a device that no node offers holds a job back; off where nodes appear on demand."""
