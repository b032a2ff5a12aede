"""What comes out: a Plan, which act/ carries out in the order objects, status, events.

The union of actions is closed.  A step that cannot be undone (SubmitRun) is planned only when the
status read back from the API server already records it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepspeed_operator.api.job import Uid
from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import DeepSpeedJobStatus


@dataclass(frozen=True, slots=True)
class EnsureToken:
    """Create the Secret with the cluster's token; one that exists is left alone."""

    cluster: str


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Apply an object by server-side apply."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteCluster:
    """Delete a RayCluster, if it still has this UID."""

    name: str
    uid: Uid


@dataclass(frozen=True, slots=True)
class SubmitRun:
    """Hand the run to the head; a head that knows the submission id already is left alone."""

    cluster: str
    head_ip: str
    submission_id: str
    command: str
    env: Mapping[str, str]


EventType = Literal["Normal", "Warning"]

Action = EnsureToken | ApplyObject | DeleteCluster | SubmitRun


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the job."""

    type: EventType
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class HeadWatch:
    """Which head to ask about which run until the next plan."""

    cluster: str
    head_uid: Uid
    head_ip: str
    submission_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What should change, and why."""

    sentence: str
    """One sentence for the log."""
    actions: tuple[Action, ...] = ()
    status: DeepSpeedJobStatus | None = None
    """The whole status to write, or None to leave it."""
    locked: bool = False
    """Write the status only if the job has not changed since it was read."""
    events: tuple[Event, ...] = ()
    head: HeadWatch | None = None
    """The head to poll; None stops polling."""
    requeue_after_s: float | None = None
    """When to look again even if nothing is heard."""
