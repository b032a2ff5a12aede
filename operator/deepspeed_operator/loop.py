"""The loop: a key, what is true about its job, what should change, change it, look again.

Workers share the inbox; a job is in the hands of one of them at a time.  This is the only clock.
An error decides by its class what comes next, is logged once, and never ends a worker.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from deepspeed_operator.act.apply import Executor
from deepspeed_operator.api.job import JobFacts, JobKey
from deepspeed_operator.clients.kinds import JOBS
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.decide.actions import Plan
from deepspeed_operator.decide.observed import Defaults, Observed
from deepspeed_operator.decide.prerequisites import derive_wanted
from deepspeed_operator.decide.reconcile import reconcile
from deepspeed_operator.errors import (
    ApiUnreachable,
    Conflict,
    HeadError,
    NotFound,
    OperatorError,
    Throttled,
)
from deepspeed_operator.telemetry import bind_job
from deepspeed_operator.watch.heads import HeadPoller
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.prerequisites import PrerequisiteReader
from deepspeed_operator.watch.store import Store

MAX_PASS_S: Final = 300.0
"""Every request of a pass has its own deadline, so a longer one means that a worker hangs."""

Decide = Callable[[JobFacts, Observed, Defaults, datetime], Plan]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What the loop goes through."""

    store: Store
    inbox: Inbox
    prerequisites: PrerequisiteReader
    heads: HeadPoller
    executor: Executor
    kube: KubeClient


class Loop:
    """Looks at jobs until it is cancelled."""

    def __init__(
        self, rooms: Rooms, defaults: Defaults, *, workers: int, decide: Decide = reconcile
    ) -> None:
        self._rooms = rooms
        self._defaults = defaults
        self._workers = workers
        self._decide = decide
        self._sentences: dict[JobKey, str] = {}
        self._passes: dict[JobKey, float] = {}
        self._is_running = False

    @property
    def is_alive(self) -> bool:
        """Whether the workers work: none of them has been at one pass for too long."""
        now_s = asyncio.get_running_loop().time()
        return self._is_running and all(
            now_s - began_s < MAX_PASS_S for began_s in self._passes.values()
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Work for ever, from the moment when everything has been listed once."""
        self._is_running = True
        try:
            await ready.wait()
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"worker {number}")
        finally:
            self._is_running = False

    async def _work(self) -> None:
        while True:
            async with self._rooms.inbox.take() as key:
                self._passes[key] = asyncio.get_running_loop().time()
                try:
                    with bind_job(f"{key.namespace}/{key.name}"):
                        await self._look_at(key)
                finally:
                    del self._passes[key]

    async def _look_at(self, key: JobKey) -> None:
        """Make one pass and decide by its outcome when the next one follows."""
        inbox = self._rooms.inbox
        try:
            requeue_after_s = await self._pass(key)
        except (Conflict, NotFound) as error:
            log.debug("job changed meanwhile", extra={"why": str(error)})
            await self._refresh(key)
            inbox.retry(key)
        except (Throttled, ApiUnreachable) as error:
            wanted_s = error.retry_after_s if isinstance(error, Throttled) else None
            again_s = inbox.retry(key, at_least_s=wanted_s or 0)
            log.warning("API server busy", extra={"why": str(error), "again_in_s": round(again_s)})
        except HeadError as error:
            again_s = inbox.retry(key, at_least_s=1)
            log.warning("head failed", extra={"why": str(error), "again_in_s": round(again_s)})
        except OperatorError as error:
            again_s = inbox.retry(key, at_least_s=5)
            # The sentence says it all; a traceback is for what nobody expected.
            log.error("pass failed", extra={"why": str(error), "again_in_s": round(again_s)})  # noqa: TRY400
        except Exception:
            again_s = inbox.retry(key, at_least_s=5)
            log.exception("pass failed", extra={"again_in_s": round(again_s)})
        else:
            inbox.succeeded(key)
            if requeue_after_s is not None:
                inbox.add_after(key, requeue_after_s)

    async def _pass(self, key: JobKey) -> float | None:
        """Look, decide, act.  Return when to look again."""
        rooms = self._rooms
        snapshot = rooms.store.snapshot(key)
        if snapshot is None:
            self._forget(key)
            return None
        job, observed = snapshot
        now = datetime.now(UTC)
        wanted = derive_wanted(job, observed, self._defaults, now)
        if wanted is not None:
            answers = await rooms.prerequisites.fetch(key.namespace, wanted)
            observed = replace(observed, prerequisites=answers)
        plan = self._decide(job, observed, self._defaults, now)
        self._tell(key, plan)
        # Watching comes first: when a submission fails, the head's state is what explains it.
        if plan.head is None:
            rooms.heads.unfollow(key)
        else:
            rooms.heads.follow(key, job.uid, plan.head)
        for written in await rooms.executor.apply(job, plan, now=now):
            if rooms.store.put(written) is not None:
                rooms.inbox.add(key)
        return plan.requeue_after_s

    async def _refresh(self, key: JobKey) -> None:
        """Read the job itself, as what we hold of it is behind."""
        try:
            self._rooms.store.put(await self._rooms.kube.get(JOBS, key.namespace, key.name))
        except NotFound:
            self._rooms.store.remove_job(key)
        except OperatorError as error:
            log.warning("job not read", extra={"why": str(error)})

    def _tell(self, key: JobKey, plan: Plan) -> None:
        """Log a plan's sentence once, however often the same plan is made."""
        changes = bool(plan.actions or plan.status is not None)
        level = logging.INFO if self._sentences.get(key) != plan.sentence else logging.DEBUG
        log.log(level, plan.sentence, extra={"changes": changes})
        self._sentences[key] = plan.sentence

    def _forget(self, key: JobKey) -> None:
        self._rooms.heads.unfollow(key)
        self._rooms.inbox.succeeded(key)
        self._sentences.pop(key, None)
