"""The poller of heads against heads in this process: when it wakes a job, and for whom it waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from deepspeed_operator.api.job import JobKey, Uid
from deepspeed_operator.clients.tokens import Tokens
from deepspeed_operator.decide.actions import HeadWatch
from deepspeed_operator.decide.observed import RunFacts, RunState
from deepspeed_operator.watch.heads import HeadPoller
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.store import Store
from deepspeed_trainer.contract import Cause, Failure, Progress, SavedCheckpoint
from tests.support.fakehead import FakeHead, heads, raw_head
from tests.support.raw import JOB_UID, raw_job
from tests.support.until import PATIENCE_S, until

KEY = JobKey("team-a", "demo")
TOKENS = Tokens(b"k" * 32)
TOKEN = TOKENS.derive(JOB_UID, "demo-1")
WATCH = HeadWatch("demo-1", Uid("uid-of-head"), "127.0.0.1", "run-a1")
STEP_1 = Progress(submission_id="run-a1", attempt=1, step=1, loss="2.5")


@dataclass
class Polled:
    """A poller with its store and inbox."""

    poller: HeadPoller
    store: Store
    inbox: Inbox
    port: int

    def run_of(self, key: JobKey = KEY) -> RunFacts | None:
        snapshot = self.store.snapshot(key)
        return None if snapshot is None else snapshot[1].run

    async def wake_up(self) -> JobKey:
        async with asyncio.timeout(PATIENCE_S), self.inbox.take() as key:
            return key

    async def until_asked(self, head: FakeHead, times: int) -> None:
        wanted = len(head.asked) + times
        await until(lambda: len(head.asked) >= wanted)


@asynccontextmanager
async def polling(
    *polite: FakeHead,
    figures_interval_s: float = 3600,
    deadline_s: float = 5,
    max_asks_per_s: float = 10_000,
) -> AsyncIterator[Polled]:
    store, inbox = Store(), Inbox()
    store.put(raw_job("demo"))
    store.put(raw_job("other", uid="uid-of-other"))
    async with heads(*polite, deadline_s=deadline_s) as (client, port):
        poller = HeadPoller(
            client,
            TOKENS,
            store,
            inbox,
            figures_interval_s=figures_interval_s,
            interval_s=0.02,
            max_asks_per_s=max_asks_per_s,
        )
        try:
            yield Polled(poller, store, inbox, port)
        finally:
            await poller.close()


def running(progress: Progress | None = STEP_1) -> FakeHead:
    known = {} if progress is None else {"run-a1": progress}
    return FakeHead(token=TOKEN, jobs={"run-a1": "RUNNING"}, progress=known)


async def test_the_first_answer_wakes_the_job() -> None:
    async with polling(running()) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        assert await polled.wake_up() == KEY
        run = polled.run_of()
    assert run is not None
    assert (run.state, run.progress, run.head_uid) == (RunState.RUNNING, STEP_1, "uid-of-head")


async def test_figures_alone_wake_nobody_before_their_time() -> None:
    head = running()
    async with polling(head) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        head.progress["run-a1"] = replace(STEP_1, step=2, loss="2.4", updated_at=5.0)
        await polled.until_asked(head, 6)
        assert len(polled.inbox) == 0
        run = polled.run_of()
    assert run is not None
    assert run.progress == STEP_1


async def test_figures_wake_the_job_when_their_time_has_come() -> None:
    head = running()
    async with polling(head, figures_interval_s=0) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        head.progress["run-a1"] = replace(STEP_1, step=2)
        await polled.wake_up()
        run = polled.run_of()
    assert run is not None
    assert run.progress is not None
    assert run.progress.step == 2


async def test_what_decisions_read_wakes_the_job_at_once() -> None:
    head = running()
    saved = SavedCheckpoint(step=2, tag="t", path="p", time=1.0)
    failed = Failure(cause=Cause.SIGNAL, message="killed")
    async with polling(head) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        for change in ({"checkpoint": saved}, {"first_step": 1}, {"failure": failed}):
            head.progress["run-a1"] = replace(head.progress["run-a1"], **change)
            await polled.wake_up()
            run = polled.run_of()
            assert run is not None
            assert run.progress == head.progress["run-a1"]


async def test_progress_beside_the_end_is_no_older_than_the_end() -> None:
    head = running()
    async with polling(head) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        last = replace(STEP_1, step=50)
        head.progress["run-a1"] = last
        head.jobs["run-a1"] = "SUCCEEDED"
        await polled.wake_up()
        run = polled.run_of()
    assert run is not None
    assert (run.state, run.progress) == (RunState.SUCCEEDED, last)
    order = [call.split("/")[1] for call in head.asked]
    assert order[:2] == ["api", "v1"]


async def test_progress_once_seen_outlives_its_endpoint() -> None:
    head = running()
    async with polling(head) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        head.progress.clear()
        head.jobs["run-a1"] = "FAILED"
        await polled.wake_up()
        run = polled.run_of()
    assert run is not None
    assert (run.state, run.progress) == (RunState.FAILED, STEP_1)


async def test_a_refused_token_and_an_unknown_run_are_states() -> None:
    denied, lost = FakeHead(token="another"), FakeHead(token=TOKEN)
    for head, state in ((denied, RunState.DENIED), (lost, RunState.NOT_FOUND)):
        async with polling(head) as polled:
            polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
            await polled.wake_up()
            run = polled.run_of()
        assert run is not None
        assert run.state is state


async def test_a_silent_head_is_an_unknown_state_with_the_reason() -> None:
    async with polling(FakeHead()) as polled:
        nowhere = replace(WATCH, head_ip="127.0.0.99")
        polled.poller.follow(KEY, Uid(JOB_UID), nowhere)
        await polled.wake_up()
        run = polled.run_of()
    assert run is not None
    assert run.state is RunState.UNKNOWN
    assert run.error


async def test_a_missed_answer_is_no_news_but_lasting_silence_is() -> None:
    head = running()
    async with polling(head) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        head.failures = 2
        await polled.until_asked(head, 5)
        assert len(polled.inbox) == 0
        head.failures = 1000
        await polled.wake_up()
        run = polled.run_of()
    assert run is not None
    assert (run.state, run.progress) == (RunState.UNKNOWN, STEP_1)


async def test_a_hanging_head_delays_no_other() -> None:
    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        polling(running(), deadline_s=3600) as polled,
        raw_head(hang, host="127.0.0.7", port=polled.port),
    ):
        hanging = replace(WATCH, head_ip="127.0.0.7")
        polled.poller.follow(JobKey("team-a", "other"), Uid("uid-of-other"), hanging)
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        assert await polled.wake_up() == KEY


async def test_a_head_that_is_silent_is_asked_less_and_less() -> None:
    async with polling(running()) as polled:
        pauses = [polled.poller._derive_pause_s(0, silences) for silences in (0, 3, 6, 30)]
        assert pauses == sorted(pauses)
        assert polled.poller._derive_pause_s(3600, 0) > pauses[0]


async def test_nobody_is_asked_after_following_has_ended() -> None:
    head = running()
    async with polling(head) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        polled.poller.unfollow(KEY)
        await asyncio.sleep(0)
        asked = len(head.asked)
        await asyncio.sleep(0.2)
        assert len(head.asked) <= asked + 1


async def test_the_same_head_keeps_its_poll_and_another_one_replaces_it() -> None:
    first, second = running(), running()
    async with polling(first, second) as polled:
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.wake_up()
        polled.poller.follow(KEY, Uid(JOB_UID), WATCH)
        await polled.until_asked(first, 4)
        assert len(polled.inbox) == 0
        moved = replace(WATCH, head_ip="127.0.0.2", head_uid=Uid("uid-of-second"))
        polled.poller.follow(KEY, Uid(JOB_UID), moved)
        await polled.wake_up()
        run = polled.run_of()
    assert run is not None
    assert run.head_uid == "uid-of-second"
    assert second.asked


async def test_many_heads_are_each_asked_more_rarely() -> None:
    head = running()
    async with polling(head, max_asks_per_s=20) as polled:
        for number in range(20):
            polled.poller.follow(JobKey("team-a", f"job-{number}"), Uid(JOB_UID), WATCH)
        began = asyncio.get_running_loop().time()
        await polled.until_asked(head, 120)
        took_s = asyncio.get_running_loop().time() - began
        assert took_s > 1.5, "three asks of each of twenty heads, of two requests"
