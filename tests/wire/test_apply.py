"""The executor: what each action becomes on the wire, and in which order."""

from typing import Any

import pytest

from deepspeed_operator.act.apply import Executor
from deepspeed_operator.act.recorder import MAX_NOTE_BYTES, build_event
from deepspeed_operator.api.names import MANAGED_BY, MANAGED_BY_LABEL, Phase, Reason
from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.clients.tokens import Tokens
from deepspeed_operator.decide.actions import (
    Action,
    ApplyObject,
    DeleteCluster,
    EnsureToken,
    Event,
    Plan,
    SubmitRun,
)
from deepspeed_operator.errors import Conflict, Denied, HeadDenied
from tests.support.builders import NOON, a_job
from tests.support.fakeapi import Answer, FakeApi, a_client
from tests.support.fakehead import FakeHead, heads
from tests.support.raw import raw_cluster, raw_job

JOB = a_job().build()
TOKENS = Tokens(b"k" * 32)
TOKEN = TOKENS.derive(JOB.uid, "demo-1")
JOB_PATH = "/apis/dsjob.dev/v1alpha1/namespaces/team-a/deepspeedjobs/demo"
SECRET_PATH = "/api/v1/namespaces/team-a/secrets/demo-1"
CLUSTER_PATH = "/apis/ray.io/v1/namespaces/team-a/rayclusters/demo-1"
EVENTS_PATH = "/apis/events.k8s.io/v1/namespaces/team-a/events"
RUNNING = DeepSpeedJobStatus(phase=Phase.RUNNING)
NEWS = Event("Normal", Reason.RUNNING, "it runs")
SUBMIT = SubmitRun("demo-1", "127.0.0.1", "demo-1-a1", "python -m driver", {"A": "1"})


def a_plan(*actions: Action, **more: Any) -> Plan:
    return Plan("does something", actions, **more)


async def carry_out(api: FakeApi, plan: Plan, head: FakeHead | None = None) -> list[Any]:
    async with a_client(api) as kube, heads(head or FakeHead(token=TOKEN)) as (client, _):
        return list(await Executor(kube, client, TOKENS).apply(JOB, plan, now=NOON))


async def test_objects_come_before_the_status_and_the_status_before_events() -> None:
    api, head = FakeApi(), FakeHead(token=TOKEN)
    api.put(JOB_PATH, raw_job())
    plan = a_plan(
        EnsureToken("demo-1"), ApplyObject(raw_cluster()), SUBMIT, status=RUNNING, events=(NEWS,)
    )
    written = await carry_out(api, plan, head)
    assert api.calls == [
        f"POST {SECRET_PATH.rsplit('/', 1)[0]}",
        f"PATCH {CLUSTER_PATH}",
        f"PATCH {JOB_PATH}/status",
        f"POST {EVENTS_PATH}",
    ]
    assert [body["kind"] for body in written] == ["RayCluster", "DeepSpeedJob"]
    assert head.jobs == {"demo-1-a1": "PENDING"}


async def test_nothing_follows_a_step_that_failed() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    api.order(Answer(403))
    with pytest.raises(Denied):
        await carry_out(api, a_plan(ApplyObject(raw_cluster()), status=RUNNING, events=(NEWS,)))
    assert api.calls == [f"PATCH {CLUSTER_PATH}"]


async def test_a_refused_submission_writes_no_status() -> None:
    api = FakeApi()
    with pytest.raises(HeadDenied):
        await carry_out(api, a_plan(SUBMIT, status=RUNNING), FakeHead(token="another"))
    assert api.calls == []


async def test_the_token_is_a_secret_that_the_job_owns() -> None:
    api = FakeApi()
    await carry_out(api, a_plan(EnsureToken("demo-1")))
    secret = api.objects[SECRET_PATH]
    [owner] = secret["metadata"]["ownerReferences"]
    assert secret["stringData"] == {"auth_token": TOKEN}
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("DeepSpeedJob", JOB.uid, True)
    assert secret["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGED_BY


async def test_a_token_that_exists_is_neither_read_nor_written() -> None:
    api = FakeApi()
    api.put(SECRET_PATH, {"metadata": {"name": "demo-1"}, "stringData": {"auth_token": "older"}})
    await carry_out(api, a_plan(EnsureToken("demo-1")))
    assert api.objects[SECRET_PATH]["stringData"] == {"auth_token": "older"}
    assert len(api.calls) == 1


async def test_a_cluster_is_deleted_by_its_uid() -> None:
    api = FakeApi()
    api.put(CLUSTER_PATH, raw_cluster(uid="young"))
    await carry_out(api, a_plan(DeleteCluster("demo-1", JOB.uid)))
    assert CLUSTER_PATH in api.objects


async def test_the_whole_status_is_written_and_nothing_that_is_unset() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    await carry_out(api, a_plan(status=RUNNING))
    [seen] = api.seen
    expected = RUNNING.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert seen.body["status"] == expected
    assert seen.body["metadata"] == {"name": "demo", "namespace": "team-a", "uid": JOB.uid}


async def test_a_locked_status_carries_the_version_that_was_decided_from() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    with pytest.raises(Conflict):
        await carry_out(api, a_plan(status=RUNNING, locked=True))
    assert api.seen[0].body["metadata"]["resourceVersion"] == JOB.resource_version


async def test_a_transition_that_is_told_twice_makes_one_event() -> None:
    api = FakeApi()
    await carry_out(api, a_plan(events=(NEWS,)))
    await carry_out(api, a_plan(events=(NEWS,)))
    assert len([path for path in api.objects if path.startswith(EVENTS_PATH)]) == 1


async def test_an_event_that_cannot_be_written_holds_nothing_up() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    api.order(Answer(200, api.objects[JOB_PATH]), Answer(403))
    written = await carry_out(api, a_plan(status=RUNNING, events=(NEWS,)))
    assert len(written) == 1


def test_the_same_words_are_news_again_in_another_attempt() -> None:
    first, again, second = (
        build_event(JOB, NEWS, attempt=attempt, now=NOON)["metadata"]["name"]
        for attempt in (1, 1, 2)
    )
    assert first == again
    assert first != second


def test_a_long_note_is_cut_between_characters() -> None:
    note = build_event(JOB, Event("Warning", Reason.RUN_FAILED, "ä" * 2000), attempt=1, now=NOON)[
        "note"
    ]
    assert len(note.encode()) <= MAX_NOTE_BYTES
    assert set(note) == {"ä"}
