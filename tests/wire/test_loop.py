"""The loop against an API server in this process: what follows each outcome of a pass.

What is decided is given by the test; what is decided for real is in tests/pure.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from deepspeed_operator.act.apply import Executor
from deepspeed_operator.api.job import JobFacts, JobKey
from deepspeed_operator.api.names import Phase
from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.clients.tokens import Tokens
from deepspeed_operator.decide.actions import ApplyObject, HeadWatch, Plan, SubmitRun
from deepspeed_operator.decide.observed import Defaults, Observed, RunState, Uid
from deepspeed_operator.loop import Loop, Rooms
from deepspeed_operator.watch.heads import HeadPoller
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.prerequisites import PrerequisiteReader
from deepspeed_operator.watch.store import Store
from tests.support.builders import DEFAULTS
from tests.support.fakeapi import Answer, FakeApi, a_client
from tests.support.fakehead import FakeHead, heads
from tests.support.raw import JOB_UID, raw_cluster, raw_job
from tests.support.until import until

KEY = JobKey("team-a", "demo")
OTHER = JobKey("team-a", "other")
PATH = "/apis/dsjob.dev/v1alpha1/namespaces/team-a/deepspeedjobs"
SPEC = {"nodes": 1, "accelerator": {"type": "CPU"}, "entrypoint": {"script": "train.py"}}
TOKENS = Tokens(b"k" * 32)
RUNNING = DeepSpeedJobStatus(phase=Phase.RUNNING)
Decide = Callable[[JobFacts, Observed], Plan]


@dataclass
class House:
    """A running loop and what it is connected to."""

    api: FakeApi
    head: FakeHead
    store: Store
    inbox: Inbox
    decide: Decide = lambda *_: Plan("nothing to do")
    passes: list[tuple[JobKey, Observed]] = field(default_factory=list)
    most_at_once: int = 0

    def add_job(self, name: str, uid: str = JOB_UID) -> None:
        self.store.put(self.api.put(f"{PATH}/{name}", raw_job(name, uid=uid, spec=SPEC)))
        self.inbox.add(JobKey("team-a", name))

    def decided(self, job: JobFacts, observed: Observed, _: Defaults, now: datetime) -> Plan:
        assert now.tzinfo is not None
        self.passes.append((job.key, observed))
        return self.decide(job, observed)

    def passes_of(self, key: JobKey) -> int:
        return sum(1 for found, _ in self.passes if found == key)


@asynccontextmanager
async def a_house() -> AsyncIterator[House]:
    api, head = FakeApi(), FakeHead(token=TOKENS.derive(JOB_UID, "demo-1"))
    house = House(api, head, Store(), Inbox())
    api.objects["/apis/ray.io/v1"] = {"resources": [{"name": "rayclusters"}]}
    async with a_client(api) as kube, heads(head) as (client, _):
        poller = HeadPoller(
            client, TOKENS, house.store, house.inbox, figures_interval_s=3600, interval_s=0.02
        )
        rooms = Rooms(
            store=house.store,
            inbox=house.inbox,
            prerequisites=PrerequisiteReader(kube),
            heads=poller,
            executor=Executor(kube, client, TOKENS),
            kube=kube,
        )
        ready = asyncio.Event()
        ready.set()
        loop = Loop(rooms, DEFAULTS, workers=4, decide=house.decided)
        task = asyncio.create_task(loop.run(ready))
        try:
            yield house
            assert loop.is_alive
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await poller.close()


def writes_status_once(job: JobFacts, _: Observed) -> Plan:
    if job.status:
        return Plan("nothing to do")
    return Plan("writes", status=RUNNING, locked=True)


async def test_what_was_written_is_seen_by_the_next_pass_without_any_watch() -> None:
    async with a_house() as house:
        house.decide = writes_status_once
        house.add_job("demo")
        await until(lambda: len(house.passes) == 2)
        snapshot = house.store.snapshot(KEY)
    assert snapshot is not None
    assert snapshot[0].status["phase"] == "Running"
    assert house.api.calls.count(f"PATCH {PATH}/demo/status") == 1


async def test_a_pass_that_changes_nothing_ends_the_chain() -> None:
    async with a_house() as house:
        house.add_job("demo")
        house.add_job("other", uid="uid-of-other")
        await until(lambda: len(house.passes) == 2)
        await asyncio.sleep(0.1)
        assert len(house.passes) == 2


async def test_a_conflict_reads_the_job_again_and_starts_over() -> None:
    async with a_house() as house:
        house.decide = writes_status_once
        house.store.put(house.api.put(f"{PATH}/demo", raw_job(spec=SPEC)))
        house.api.put(f"{PATH}/demo", {"metadata": {"labels": {"by": "somebody else"}}})
        house.inbox.add(KEY)
        await until(lambda: "status" in house.api.objects[f"{PATH}/demo"])
    calls = [call for call in house.api.calls if "deepspeedjobs" in call]
    assert calls == [
        f"PATCH {PATH}/demo/status",
        f"GET {PATH}/demo",
        f"PATCH {PATH}/demo/status",
    ]


async def test_a_job_that_is_gone_is_forgotten() -> None:
    async with a_house() as house:
        house.decide = writes_status_once
        house.store.put(raw_job(spec=SPEC))
        house.inbox.add(KEY)
        await until(lambda: house.store.snapshot(KEY) is None)
        passes = len(house.passes)
        house.inbox.add(KEY)
        await until(lambda: len(house.inbox) == 0)
        assert len(house.passes) == passes


@pytest.mark.parametrize("answer", [Answer(500), Answer(403), Answer(422), Answer(409)])
async def test_a_step_that_fails_is_tried_again_from_the_start(answer: Answer) -> None:
    async with a_house() as house:
        house.decide = writes_status_once
        house.store.put(house.api.put(f"{PATH}/demo", raw_job(spec=SPEC)))
        house.api.order(Answer(200, house.api.objects["/apis/ray.io/v1"]), *[answer] * 3)
        house.inbox.retry = _at_once(house.inbox)  # type: ignore[method-assign]
        house.inbox.add(KEY)
        await until(lambda: "status" in house.api.objects[f"{PATH}/demo"])
        assert len(house.passes) >= 2


def _at_once(inbox: Inbox) -> Callable[..., float]:
    def retry(key: JobKey, *, at_least_s: float = 0) -> float:
        inbox.add_after(key, 0.001)
        return at_least_s

    return retry


async def test_a_fault_of_ours_is_logged_with_its_job_and_holds_no_other_job_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decide(job: JobFacts, _: Observed) -> Plan:
        if job.key == KEY:
            raise ZeroDivisionError("a fault")
        return Plan("nothing to do")

    async with a_house() as house:
        house.decide = decide
        house.inbox.retry = _at_once(house.inbox)  # type: ignore[method-assign]
        house.add_job("demo")
        await until(lambda: house.passes_of(KEY) > 8)
        house.add_job("other", uid="uid-of-other")
        await until(lambda: house.passes_of(OTHER) == 1)
    faults = [record for record in caplog.records if record.exc_info]
    assert len(faults) >= 8
    assert faults[0].levelno == logging.ERROR


async def test_a_sentence_is_logged_once_however_often_it_is_planned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with a_house() as house:
        house.decide = lambda *_: Plan("waits for the head", requeue_after_s=0.01)
        house.add_job("demo")
        await until(lambda: len(house.passes) > 5)
    told = [record for record in caplog.records if record.message == "waits for the head"]
    assert len(told) == 1


async def test_an_object_that_was_written_makes_its_job_due() -> None:
    def decide(_: JobFacts, observed: Observed) -> Plan:
        if observed.clusters:
            return Plan("nothing to do")
        wanted = raw_cluster()
        for made_by_the_server in ("uid", "resourceVersion", "creationTimestamp"):
            del wanted["metadata"][made_by_the_server]
        return Plan("makes the cluster", (ApplyObject(wanted),))

    async with a_house() as house:
        house.decide = decide
        house.add_job("demo")
        await until(lambda: bool(house.passes and house.passes[-1][1].clusters))
    assert len(house.passes) == 2


async def test_prerequisites_are_answered_before_the_decision() -> None:
    async with a_house() as house:
        house.add_job("demo")
        await until(lambda: len(house.passes) == 1)
    answers = house.passes[0][1].prerequisites
    assert answers is not None
    assert answers.kuberay_served
    assert answers.largest_device_count is None


async def test_a_refused_submission_shows_as_the_state_of_the_head() -> None:
    watch = HeadWatch("demo-1", Uid("uid-of-head"), "127.0.0.1", "run-a1")
    submit = SubmitRun("demo-1", "127.0.0.1", "run-a1", "python", {})

    async with a_house() as house:
        house.head.token = "another"
        house.decide = lambda *_: Plan("submits", (submit,), head=watch)
        house.add_job("demo")
        await until(
            lambda: any(seen.run and seen.run.state is RunState.DENIED for _, seen in house.passes)
        )


async def test_one_worker_at_a_time_looks_at_a_job() -> None:
    at_work: set[Any] = set()

    async with a_house() as house:
        house.api.delay_s = 0.01

        def decide(job: JobFacts, _: Observed) -> Plan:
            assert not at_work
            return Plan("writes", status=DeepSpeedJobStatus(restarts=len(house.passes)))

        house.decide = decide
        house.add_job("demo")
        for _ in range(20):
            house.inbox.add(KEY)
            await asyncio.sleep(0.002)
        await until(lambda: house.passes_of(KEY) > 5)
        assert house.api.most_at_once == 1
