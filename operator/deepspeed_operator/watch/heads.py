"""Asks the heads that plans named how their runs are, and wakes a job when the answer matters.

Ray's status comes first and the trainer's progress second, so progress is never older than the
state beside it.  Each head has its own task, all of them share a bound, and a head that does not
answer is asked less and less often: it delays nobody else.  Mere figures wake a job only now and
then, because each wake-up may become a write to the API server.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from deepspeed_operator.api.job import JobKey, Uid
from deepspeed_operator.clients.rayhead import HeadAddress, HeadClient, JobState
from deepspeed_operator.clients.tokens import Tokens
from deepspeed_operator.decide.actions import HeadWatch
from deepspeed_operator.decide.observed import RunFacts, RunState
from deepspeed_operator.errors import HeadDenied, HeadError
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.store import Store
from deepspeed_trainer.contract import Progress

MAX_CONCURRENT_ASKS: Final = 64
MAX_CONCURRENT_ASKS_OF_SILENT: Final = 16
"""Heads that did not answer last time have a bound of their own, so that however many of them
there are, they take no turn from those that do."""
INTERVAL_S: Final = 1.0
"""Time between two asks in the first minute, when most happens."""
LATER_INTERVAL_S: Final = 5.0
FIRST_MINUTE_S: Final = 60.0
MAX_ASKS_PER_S: Final = 50
"""What all heads together are asked in a second, so that a thousand runs cost no core: where there
are more, each is asked more rarely."""
SILENCES_UNTIL_TOLD: Final = 3
"""A head that was heard before may miss an answer or two; that is no news yet."""
SILENT_INTERVAL_S: Final = 20.0
"""A head that did not answer is asked ever more rarely, down to this."""

_STATES: Final[Mapping[JobState, RunState]] = {
    JobState.PENDING: RunState.PENDING,
    JobState.RUNNING: RunState.RUNNING,
    JobState.STOPPED: RunState.STOPPED,
    JobState.SUCCEEDED: RunState.SUCCEEDED,
    JobState.FAILED: RunState.FAILED,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Followed:
    job_uid: Uid
    watch: HeadWatch


class HeadPoller:
    """Follows at most one head a job."""

    def __init__(
        self,
        heads: HeadClient,
        tokens: Tokens,
        store: Store,
        inbox: Inbox,
        *,
        figures_interval_s: float,
        interval_s: float = INTERVAL_S,
        max_asks_per_s: float = MAX_ASKS_PER_S,
    ) -> None:
        self._heads = heads
        self._tokens = tokens
        self._store = store
        self._inbox = inbox
        self._figures_interval_s = figures_interval_s
        self._interval_s = interval_s
        self._max_asks_per_s = max_asks_per_s
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_ASKS)
        self._slots_of_silent = asyncio.Semaphore(MAX_CONCURRENT_ASKS_OF_SILENT)
        self._followed: dict[JobKey, tuple[_Followed, asyncio.Task[None]]] = {}

    def follow(self, key: JobKey, job_uid: Uid, watch: HeadWatch) -> None:
        """Ask this head about this run from now on, and no other for this job."""
        wanted = _Followed(job_uid, watch)
        if key in self._followed and self._followed[key][0] == wanted:
            return
        self.unfollow(key)
        name = f"head of {key.namespace}/{key.name}"
        self._followed[key] = wanted, asyncio.create_task(self._poll(key, wanted), name=name)

    def unfollow(self, key: JobKey) -> None:
        """Ask no head for this job any more."""
        if key in self._followed:
            _, task = self._followed.pop(key)
            task.cancel()

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for _, task in self._followed.values()]
        self._followed.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, key: JobKey, followed: _Followed) -> None:
        clock = asyncio.get_running_loop().time
        began, told_at, silences = clock(), float("-inf"), 0
        told: RunFacts | None = None
        while True:
            async with self._slots_of_silent if silences else self._slots:
                found = await self._ask_safely(key, followed, told)
            silences = silences + 1 if found.state is RunState.UNKNOWN else 0
            figures_due = clock() - told_at >= self._figures_interval_s
            is_news = _matters(told, found) or (figures_due and found != told)
            if is_news and (told is None or silences in (0, SILENCES_UNTIL_TOLD)):
                told, told_at = found, clock()
                self._store.put_run(key, found)
                self._inbox.add(key)
            await asyncio.sleep(self._derive_pause_s(clock() - began, silences))

    def _derive_pause_s(self, age_s: float, silences: int) -> float:
        pause_s = self._interval_s
        if age_s > FIRST_MINUTE_S:
            pause_s = min(self._interval_s * age_s / FIRST_MINUTE_S, LATER_INTERVAL_S)
        if silences:
            pause_s = min(
                max(pause_s, self._interval_s * 2 ** min(silences, 10)), SILENT_INTERVAL_S
            )
        pause_s = max(pause_s, len(self._followed) / self._max_asks_per_s)
        return pause_s * random.uniform(0.9, 1.1)  # noqa: S311  spreads the asks, no secret

    async def _ask_safely(
        self, key: JobKey, followed: _Followed, before: RunFacts | None
    ) -> RunFacts:
        try:
            return await self._ask(followed, before)
        except Exception:
            # A fault of ours: say so, and go on asking this head and all others.
            log.exception("asking a head failed", extra={"job": f"{key.namespace}/{key.name}"})
            return replace(_know_nothing(followed, before), error="the operator failed to ask")

    async def _ask(self, followed: _Followed, before: RunFacts | None) -> RunFacts:
        watch = followed.watch
        token = self._tokens.derive(followed.job_uid, watch.cluster)
        head = HeadAddress(watch.head_ip, token)
        facts = _know_nothing(followed, before)
        try:
            answer = await self._heads.status(head, watch.submission_id)
            if answer is None:
                return replace(facts, state=RunState.NOT_FOUND)
            facts = replace(facts, state=_STATES[answer[0]], message=answer[1])
        except HeadDenied as error:
            return replace(facts, state=RunState.DENIED, error=str(error))
        except HeadError as error:
            return replace(facts, error=str(error))
        if facts.state is RunState.PENDING:
            return facts
        return await self._add_progress(head, facts)

    async def _add_progress(self, head: HeadAddress, facts: RunFacts) -> RunFacts:
        try:
            progress = await self._heads.progress(head, facts.submission_id)
        except HeadError as error:
            # The endpoint starts after the driver and may end before Ray's: no news is no error.
            log.debug("progress unavailable", extra={"head": head.ip, "why": str(error)})
            return facts
        return facts if progress is None else replace(facts, progress=progress)


def _know_nothing(followed: _Followed, before: RunFacts | None) -> RunFacts:
    return RunFacts(
        submission_id=followed.watch.submission_id,
        head_uid=followed.watch.head_uid,
        state=RunState.UNKNOWN,
        message=None,
        # What was seen once stays true when the endpoint is gone, as after the driver's end.
        progress=None if before is None else before.progress,
        error=None,
    )


def _matters(told: RunFacts | None, found: RunFacts) -> bool:
    """Tell whether decisions would read something else than they were last told."""
    return told is None or _strip(told) != _strip(found)


def _strip(run: RunFacts) -> RunFacts:
    """Leave out what changes all the time: figures, clocks and wordings."""
    progress = None if run.progress is None else _strip_progress(run.progress)
    return replace(run, message=None, error=None, progress=progress)


def _strip_progress(progress: Progress) -> Progress:
    return replace(
        progress,
        step=0,
        total_steps=None,
        epoch=None,
        loss=None,
        samples_per_second=None,
        metrics=(),
        updated_at=0.0,
        notice=None,
    )
