"""Events about a job: one for each transition, whatever happens in between.

An Event's name is derived from the job, the attempt, the reason and the message, so a transition
that is told twice makes one Event.  Events are news, not records: one that cannot be written is
logged and not tried again, as the status already says the same.
"""

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from deepspeed_operator.api import names
from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.clients.kinds import EVENTS
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.decide.actions import Event
from deepspeed_operator.errors import Conflict, OperatorError

MAX_NOTE_BYTES: Final = 1024
MAX_NAME_CHARS: Final = 253
REPORTER: Final = f"{names.GROUP}/{names.FIELD_OWNER}"

log = logging.getLogger(__name__)


class Recorder:
    """Writes Events."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def record(self, job: JobFacts, event: Event, *, attempt: int, now: datetime) -> None:
        """Write an Event, unless this transition has one already."""
        try:
            await self._kube.create(build_event(job, event, attempt=attempt, now=now))
        except Conflict:
            return
        except OperatorError as error:
            log.warning("event not written", extra={"reason": event.reason, "why": str(error)})


def build_event(job: JobFacts, event: Event, *, attempt: int, now: datetime) -> Mapping[str, Any]:
    """Return the Event of a transition."""
    told = f"{job.uid}/{attempt}/{event.reason}/{event.message}"
    suffix = hashlib.sha256(told.encode()).hexdigest()[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "name": f"{job.key.name[: MAX_NAME_CHARS - 1 - len(suffix)]}.{suffix}",
            "namespace": job.key.namespace,
        },
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": event.type,
        "reason": event.reason.value,
        "action": "Reconcile",
        "note": _cut(event.message),
        "reportingController": REPORTER,
        "reportingInstance": names.FIELD_OWNER,
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": job.key.namespace,
            "name": job.key.name,
            "uid": job.uid,
        },
    }


def _cut(message: str) -> str:
    return message.encode()[:MAX_NOTE_BYTES].decode(errors="ignore")
