"""The API client against a server in this process: what it sends, and what answers become.

Excluded: what a real API server makes of it (tests/cluster).
"""

import asyncio
from pathlib import Path

import pytest

from deepspeed_operator.api import names
from deepspeed_operator.clients.access import MAX_CONNECTIONS, load_access, load_configuration
from deepspeed_operator.clients.kinds import CLUSTERS, CONFIG_MAPS, JOBS, PODS, Kind
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.errors import (
    ApiError,
    ApiUnreachable,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    Throttled,
)
from tests.support.fakeapi import Answer, FakeApi, a_client, serving
from tests.support.raw import JOB_UID, raw_cluster, raw_job

JOB_PATH = "/apis/dsjob.dev/v1alpha1/namespaces/team-a/deepspeedjobs/demo"
CLUSTER_PATH = "/apis/ray.io/v1/namespaces/team-a/rayclusters/demo-1"
BUSY = Answer(503, {"message": "etcd is slow"})


def status_body(uid: str = JOB_UID) -> dict[str, object]:
    meta = {"name": "demo", "namespace": "team-a", "uid": uid}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": meta,
        "status": {"phase": "Running"},
    }


async def test_apply_is_server_side_forced_and_ours() -> None:
    api = FakeApi()
    async with a_client(api) as kube:
        written = await kube.apply(raw_cluster())
    [seen] = api.seen
    assert (seen.method, seen.path) == ("PATCH", CLUSTER_PATH)
    assert seen.content_type == "application/apply-patch+yaml"
    assert seen.query == {"fieldManager": names.FIELD_OWNER, "force": "true"}
    assert seen.body["metadata"]["name"] == "demo-1"
    assert written["metadata"]["resourceVersion"]


async def test_a_status_goes_to_its_subresource_and_back_comes_the_object() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    async with a_client(api) as kube:
        written = await kube.apply_status(status_body())
    assert api.calls == [f"PATCH {JOB_PATH}/status"]
    assert "resourceVersion" not in api.seen[0].body["metadata"]
    assert written["status"] == {"phase": "Running"}


async def test_a_locked_status_is_refused_when_the_job_has_changed() -> None:
    api = FakeApi()
    version = api.put(JOB_PATH, raw_job())["metadata"]["resourceVersion"]
    async with a_client(api) as kube:
        await kube.apply_status(status_body(), resource_version=version)
        with pytest.raises(Conflict):
            await kube.apply_status(status_body(), resource_version=version)


async def test_a_status_never_lands_on_a_younger_job_of_the_same_name() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    async with a_client(api) as kube:
        with pytest.raises(Conflict):
            await kube.apply_status(status_body(uid="of-the-deleted-one"))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Invalid),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (429, Throttled),
        (500, Throttled),
        (503, Throttled),
    ],
)
async def test_each_status_becomes_its_own_error(status: int, error: type[ApiError]) -> None:
    api = FakeApi()
    api.order(*[Answer(status, {"kind": "Status", "message": "because"})] * 3)
    async with a_client(api) as kube:
        with pytest.raises(error, match="because") as caught:
            await kube.get(JOBS, "team-a", "demo")
    assert type(caught.value) is error
    assert caught.value.status == status


async def test_a_busy_server_is_asked_again() -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    api.order(BUSY, Answer(429, headers={"Retry-After": "0"}))
    async with a_client(api) as kube:
        found = await kube.get(JOBS, "team-a", "demo")
    assert found["metadata"]["name"] == "demo"
    assert len(api.seen) == 3


async def test_a_server_that_stays_busy_is_left_alone_after_three_tries() -> None:
    api = FakeApi()
    api.order(*[BUSY] * 9)
    async with a_client(api) as kube:
        with pytest.raises(Throttled):
            await kube.apply(raw_cluster())
    assert len(api.seen) == 3


async def test_a_long_retry_after_is_left_to_the_inbox() -> None:
    api = FakeApi()
    api.order(Answer(429, headers={"Retry-After": "60"}))
    async with a_client(api) as kube:
        with pytest.raises(Throttled) as caught:
            await kube.get(JOBS, "team-a", "demo")
    assert caught.value.retry_after_s == 60
    assert len(api.seen) == 1


async def test_what_cannot_work_is_not_tried_again() -> None:
    api = FakeApi()
    api.order(*[Answer(403)] * 3)
    async with a_client(api) as kube:
        with pytest.raises(Denied):
            await kube.get(JOBS, "team-a", "demo")
    assert len(api.seen) == 1


async def test_a_create_without_an_answer_is_not_repeated() -> None:
    api = FakeApi()
    api.order(BUSY)
    async with a_client(api) as kube:
        with pytest.raises(Throttled):
            await kube.create(raw_cluster())
    assert len(api.seen) == 1


async def test_a_create_that_was_turned_away_is_repeated() -> None:
    api = FakeApi()
    api.order(Answer(429))
    async with a_client(api) as kube:
        await kube.create(raw_cluster())
    assert CLUSTER_PATH in api.objects


async def test_a_create_of_what_exists_is_a_conflict() -> None:
    api = FakeApi()
    async with a_client(api) as kube:
        await kube.create(raw_cluster())
        with pytest.raises(Conflict):
            await kube.create(raw_cluster())


async def test_delete_takes_only_the_object_that_was_meant() -> None:
    api = FakeApi()
    young = api.put(CLUSTER_PATH, raw_cluster(uid="young"))
    async with a_client(api) as kube:
        await kube.delete(CLUSTERS, "team-a", "demo-1", uid="old")
        assert api.objects[CLUSTER_PATH] == young
        await kube.delete(CLUSTERS, "team-a", "demo-1", uid="young")
        assert CLUSTER_PATH not in api.objects
        await kube.delete(CLUSTERS, "team-a", "demo-1", uid="young")


async def test_a_denied_delete_is_told() -> None:
    api = FakeApi()
    api.order(Answer(403, {"message": "no right"}))
    async with a_client(api) as kube:
        with pytest.raises(Denied, match="no right"):
            await kube.delete(CLUSTERS, "team-a", "demo-1", uid="any")


async def test_silence_is_unreachable() -> None:
    api = FakeApi()
    api.delay_s = 30
    async with a_client(api, timeout_s=0.1) as kube:
        with pytest.raises(ApiUnreachable, match="GET"):
            await kube.get(JOBS, "team-a", "demo")


async def test_a_closed_port_is_unreachable() -> None:
    async with a_client(FakeApi()) as kube:
        kube._client.configuration.host = "http://127.0.0.1:1"
        with pytest.raises(ApiUnreachable):
            await kube.get(JOBS, "team-a", "demo")


@pytest.mark.parametrize("rubbish", ["<html>a proxy</html>", "[]", ""])
async def test_an_answer_that_is_no_object_is_no_answer(rubbish: str) -> None:
    api = FakeApi()
    api.order(*[Answer(200, rubbish)] * 3)
    async with a_client(api) as kube:
        with pytest.raises(ApiUnreachable):
            await kube.get(JOBS, "team-a", "demo")


async def test_a_list_is_read_to_its_last_page_with_the_selector_on_each() -> None:
    def page(name: str, more: str) -> Answer:
        listed = {"metadata": {"resourceVersion": "7", "continue": more}}
        return Answer(200, {**listed, "items": [{"metadata": {"name": name}}]})

    api = FakeApi()
    api.order(page("a", "next"), page("b", ""))
    async with a_client(api) as kube:
        pages = [page async for page in kube.pages(PODS, "team-a", names.SELECTOR)]
    items = [item for page in pages for item in page.items]
    assert [item["metadata"]["name"] for item in items] == ["a", "b"]
    assert {(item["apiVersion"], item["kind"]) for item in items} == {("v1", "Pod")}
    assert {page.resource_version for page in pages} == {7}
    assert [seen.query["labelSelector"] for seen in api.seen] == [names.SELECTOR] * 2
    assert api.seen[1].query["continue"] == "next"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (CONFIG_MAPS, "/api/v1/namespaces/team-a/configmaps/x"),
        (CLUSTERS, "/apis/ray.io/v1/namespaces/team-a/rayclusters/x"),
    ],
)
async def test_core_and_named_groups_have_their_own_paths(kind: Kind, path: str) -> None:
    assert kind.path("team-a", "x") == path


async def test_a_kind_is_served_only_when_the_server_lists_it() -> None:
    api = FakeApi()
    async with a_client(api) as kube:
        assert not await kube.serves(CLUSTERS)
        api.objects["/apis/ray.io/v1"] = {"resources": [{"name": "rayservices"}]}
        assert not await kube.serves(CLUSTERS)
        api.objects["/apis/ray.io/v1"] = {"resources": [{"name": "rayclusters"}]}
        assert await kube.serves(CLUSTERS)


async def test_a_kubeconfig_gives_address_token_and_a_bounded_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi()
    api.put(JOB_PATH, raw_job())
    api.delay_s = 0.05
    async with serving(api.answer) as port:
        config = tmp_path / "kubeconfig"
        config.write_text(
            f"""
            current-context: here
            contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
            clusters: [{{name: here, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
            users: [{{name: me, user: {{token: sesame}}}}]
            """
        )
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(
            "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config)
        )
        access = await load_access()
        assert (access.server, access.scheme, access.token) == (
            f"http://127.0.0.1:{port}",
            "Bearer",
            "sesame",
        )
        async with KubeClient(await load_configuration()) as kube:
            await asyncio.gather(
                *(kube.get(JOBS, "team-a", "demo") for _ in range(3 * MAX_CONNECTIONS))
            )
    assert 1 < api.most_at_once <= MAX_CONNECTIONS


async def test_no_pod_and_no_kubeconfig_is_said_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(
        "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    with pytest.raises(ApiUnreachable, match="KUBECONFIG"):
        await load_configuration()
