"""Carries out a Plan: objects, then the status, then events, in this order and one after another.

A step that fails stops the rest, so a status never tells of an object that was not written.
Nothing is decided here and nothing is tried again: the next pass sees what was done.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, assert_never

from deepspeed_operator.act.recorder import Recorder
from deepspeed_operator.api import names
from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.build.raycluster import build_labels, build_owner_reference
from deepspeed_operator.clients.kinds import CLUSTERS, SECRETS, Object
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.clients.rayhead import HeadAddress, HeadClient
from deepspeed_operator.clients.tokens import Tokens
from deepspeed_operator.decide.actions import (
    Action,
    ApplyObject,
    DeleteCluster,
    EnsureToken,
    Plan,
    SubmitRun,
)
from deepspeed_operator.errors import Conflict

TOKEN_FIELD = "auth_token"  # noqa: S105  KubeRay reads the token from this field
"""Field of the Secret, named as its cluster, in which KubeRay looks for the token."""


class Executor:
    """Writes what plans ask for."""

    def __init__(self, kube: KubeClient, heads: HeadClient, tokens: Tokens) -> None:
        self._kube = kube
        self._heads = heads
        self._tokens = tokens
        self._recorder = Recorder(kube)

    async def apply(self, job: JobFacts, plan: Plan, *, now: datetime) -> Sequence[Object]:
        """Carry out a plan and return the objects as the API server has them now.

        Raises:
            Conflict: the job changed since it was read, or is another one by now.
            ApiError, ApiUnreachable, HeadError: of the step that failed.
        """
        written = [found for action in plan.actions for found in await self._act(job, action)]
        if plan.status is not None:
            written.append(await self._write_status(job, plan.status, locked=plan.locked))
        for event in plan.events:
            await self._recorder.record(job, event, attempt=_read_attempt(plan, job), now=now)
        return written

    async def _act(self, job: JobFacts, action: Action) -> Sequence[Object]:
        match action:
            case EnsureToken():
                await self._create_token(job, action.cluster)
            case ApplyObject():
                return [await self._kube.apply(action.body)]
            case DeleteCluster():
                await self._kube.delete(CLUSTERS, job.key.namespace, action.name, uid=action.uid)
            case SubmitRun():
                token = self._tokens.derive(job.uid, action.cluster)
                head = HeadAddress(action.head_ip, token)
                await self._heads.submit(head, action.submission_id, action.command, action.env)
            case _:
                assert_never(action)
        return []

    async def _create_token(self, job: JobFacts, cluster: str) -> None:
        """Create the Secret.  One that exists is left alone: we may not even read it."""
        body = {
            "apiVersion": SECRETS.api_version,
            "kind": SECRETS.kind,
            "metadata": {
                "name": cluster,
                "namespace": job.key.namespace,
                "labels": build_labels(job),
                "ownerReferences": [build_owner_reference(job)],
            },
            "stringData": {TOKEN_FIELD: self._tokens.derive(job.uid, cluster)},
        }
        try:
            await self._kube.create(body)
        except Conflict:
            return

    async def _write_status(
        self, job: JobFacts, status: DeepSpeedJobStatus, *, locked: bool
    ) -> Object:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            # The UID keeps this status from a younger job of the same name.
            "metadata": {
                "name": job.key.name,
                "namespace": job.key.namespace,
                "uid": job.uid,
            },
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        version = job.resource_version if locked else None
        return await self._kube.apply_status(body, resource_version=version)


def _read_attempt(plan: Plan, job: JobFacts) -> int:
    """Return the attempt that an event belongs to: the same message may be news again later."""
    if plan.status is not None:
        return plan.status.attempts[-1].number if plan.status.attempts else 0
    attempts: Sequence[Mapping[str, Any]] = job.status.get("attempts", [])
    return max((attempt["number"] for attempt in attempts), default=0)
