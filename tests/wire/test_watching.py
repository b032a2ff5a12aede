"""What is listed before the first plan, and what is asked for one: of a server in this process."""

import asyncio
from typing import Any

import pytest

from deepspeed_operator.api import names
from deepspeed_operator.api.job import JobKey
from deepspeed_operator.clients.kinds import JOBS
from deepspeed_operator.decide.observed import ClaimFacts, Wanted
from deepspeed_operator.errors import Denied, NotFound
from deepspeed_operator.watch import relist
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.prerequisites import PrerequisiteReader
from deepspeed_operator.watch.relist import Relister, announce_kuberay
from deepspeed_operator.watch.store import Store
from tests.support.fakeapi import Answer, FakeApi, a_client
from tests.support.raw import raw_cluster, raw_job, raw_pod
from tests.support.until import until

KEY = JobKey("team-a", "demo")
JOBS_PATH = "/apis/dsjob.dev/v1alpha1/deepspeedjobs"
CLUSTERS_PATH = "/apis/ray.io/v1/rayclusters"
PODS_PATH = "/api/v1/pods"
SERVED = {"resources": [{"name": "rayclusters"}]}


def a_list(*items: Any, version: int = 50) -> Any:
    return {"items": list(items), "metadata": {"resourceVersion": str(version)}}


def an_api(**lists: Any) -> FakeApi:
    api = FakeApi()
    api.objects[JOBS_PATH] = lists.get("jobs", a_list(raw_job()))
    api.objects[CLUSTERS_PATH] = lists.get("clusters", a_list(raw_cluster()))
    api.objects[PODS_PATH] = lists.get("pods", a_list(raw_pod()))
    return api


async def test_everything_is_known_and_due_after_the_first_list() -> None:
    api, store, inbox = an_api(), Store(), Inbox()
    async with a_client(api) as kube:
        relister = Relister(kube, store, inbox)
        assert not relister.is_complete.is_set()
        await relister.list_all()
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    assert (len(snapshot[1].clusters), len(snapshot[1].pods)) == (1, 1)
    assert relister.is_complete.is_set()
    assert len(inbox) == 1
    selectors = {seen.path: seen.query.get("labelSelector") for seen in api.seen}
    assert selectors == {
        JOBS_PATH: None,
        CLUSTERS_PATH: names.SELECTOR,
        PODS_PATH: names.SELECTOR,
    }


async def test_a_deletion_that_no_watch_reported_is_found() -> None:
    store = Store()
    for raw in (raw_job(), raw_cluster(), raw_pod()):
        store.put(raw)
    async with a_client(an_api(pods=a_list())) as kube:
        await Relister(kube, store, Inbox()).list_all()
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    assert (len(snapshot[1].clusters), len(snapshot[1].pods)) == (1, 0)


async def test_a_job_that_is_gone_is_made_due_so_that_its_head_is_left_alone() -> None:
    store, inbox = Store(), Inbox()
    store.put(raw_job())
    async with a_client(an_api(jobs=a_list())) as kube:
        await Relister(kube, store, inbox).list_all()
    assert len(inbox) == 1
    assert store.snapshot(KEY) is None


async def test_without_kuberay_everything_else_is_listed() -> None:
    api, store = an_api(), Store()
    del api.objects[CLUSTERS_PATH]
    async with a_client(api) as kube:
        relister = Relister(kube, store, Inbox())
        await relister.list_all()
    assert relister.is_complete.is_set()
    assert store.snapshot(KEY) is not None


async def test_nothing_is_complete_while_our_own_kind_is_not_served() -> None:
    api = an_api()
    del api.objects[JOBS_PATH]
    async with a_client(api) as kube:
        relister = Relister(kube, Store(), Inbox())
        with pytest.raises(NotFound):
            await relister.list_all()
    assert not relister.is_complete.is_set()


async def test_only_the_given_namespaces_are_listed() -> None:
    api = FakeApi()
    for namespace in ("team-a", "team-b"):
        for group, plural in (
            ("apis/dsjob.dev/v1alpha1", "deepspeedjobs"),
            ("apis/ray.io/v1", "rayclusters"),
            ("api/v1", "pods"),
        ):
            api.objects[f"/{group}/namespaces/{namespace}/{plural}"] = a_list()
    async with a_client(api) as kube:
        await Relister(kube, Store(), Inbox(), ("team-a", "team-b")).list_all()
    assert len(api.calls) == 6
    assert all("/namespaces/team-" in call for call in api.calls)


async def test_a_list_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relist, "RETRY_S", 0.01)
    api = an_api()
    api.order(Answer(403))
    async with a_client(api) as kube:
        relister = Relister(kube, Store(), Inbox())
        task = asyncio.create_task(relister.run())
        async with asyncio.timeout(10):
            await relister.is_complete.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_kuberay_that_comes_later_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relist, "RETRY_S", 0.01)
    api, appeared = FakeApi(), asyncio.Event()
    async with a_client(api) as kube:
        task = asyncio.create_task(announce_kuberay(kube, appeared))
        async with asyncio.timeout(10):
            await until(lambda: api.seen)
            api.objects["/apis/ray.io/v1"] = SERVED
            await appeared.wait()
            await task


async def test_kuberay_that_is_there_already_is_no_news() -> None:
    api, appeared = FakeApi(), asyncio.Event()
    api.objects["/apis/ray.io/v1"] = SERVED
    async with a_client(api) as kube:
        await announce_kuberay(kube, appeared)
    assert not appeared.is_set()


def a_node(**allocatable: str) -> Any:
    return {"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}


EVERYTHING = Wanted(
    kuberay=True,
    config_maps=frozenset({"ds"}),
    claims=frozenset({"runs"}),
    device="gpu",
)


async def test_each_wish_is_answered_and_nothing_else_is_asked() -> None:
    api = FakeApi()
    api.objects["/apis/ray.io/v1"] = SERVED
    api.objects["/api/v1/namespaces/team-a/configmaps/ds"] = {"data": {"ds_config.json": "{}"}}
    api.objects["/api/v1/namespaces/team-a/persistentvolumeclaims/runs"] = {
        "spec": {"accessModes": ["ReadWriteMany"]},
        "status": {"phase": "Bound"},
    }
    api.objects["/api/v1/nodes"] = a_list(a_node(gpu="4"), a_node(gpu="1k"), a_node(cpu="2"))
    async with a_client(api) as kube:
        reader = PrerequisiteReader(kube)
        nothing = await reader.fetch("team-a", Wanted())
        assert api.calls == []
        found = await reader.fetch(
            "team-a",
            EVERYTHING,
        )
    assert (nothing.kuberay_served, nothing.claims, nothing.config_maps) == (None, {}, {})
    assert found.kuberay_served
    assert found.config_maps == {"ds": {"ds_config.json": "{}"}}
    assert found.claims == {"runs": ClaimFacts(("ReadWriteMany",), "Bound")}
    assert found.largest_device_count == 1000


async def test_what_does_not_exist_is_none() -> None:
    api = FakeApi()
    api.objects["/api/v1/nodes"] = a_list()
    async with a_client(api) as kube:
        found = await PrerequisiteReader(kube).fetch(
            "team-a",
            EVERYTHING,
        )
    assert found.kuberay_served is False
    assert (found.config_maps, found.claims) == ({"ds": None}, {"runs": None})
    assert found.largest_device_count == 0


async def test_many_jobs_share_one_look_at_nodes_and_discovery() -> None:
    api = FakeApi()
    api.objects["/apis/ray.io/v1"] = SERVED
    api.objects["/api/v1/nodes"] = a_list(a_node(gpu="8"))
    async with a_client(api) as kube:
        reader = PrerequisiteReader(kube)
        wanted = Wanted(kuberay=True, device="gpu")
        await asyncio.gather(*(reader.fetch("team-a", wanted) for _ in range(50)))
    assert sorted(api.calls) == ["GET /api/v1/nodes", "GET /apis/ray.io/v1"]


async def test_a_missing_right_is_told_and_not_taken_for_absence() -> None:
    api = FakeApi()
    api.order(Answer(403))
    async with a_client(api) as kube:
        with pytest.raises(Denied):
            await PrerequisiteReader(kube).fetch("team-a", Wanted(claims=frozenset({"runs"})))


async def test_listed_items_know_their_kind() -> None:
    bare = raw_job()
    del bare["kind"], bare["apiVersion"]
    async with a_client(an_api(jobs=a_list(bare))) as kube:
        [page] = [page async for page in kube.pages(JOBS)]
    assert page.items[0]["kind"] == names.KIND
