"""The operator's key and the tokens derived from it, against an API server in this process."""

import base64

import pytest

from deepspeed_operator.clients.tokens import KEY_BYTES, KEY_SECRET, Tokens, open_tokens
from deepspeed_operator.errors import Invalid
from tests.support.fakeapi import Answer, FakeApi, a_client

PATH = f"/api/v1/namespaces/dsjob-system/secrets/{KEY_SECRET}"


async def test_the_first_start_makes_a_key_and_every_later_one_finds_it() -> None:
    api = FakeApi()
    async with a_client(api) as kube:
        first = (await open_tokens(kube, "dsjob-system")).derive("uid", "demo-1")
        second = (await open_tokens(kube, "dsjob-system")).derive("uid", "demo-1")
    assert first == second
    assert len(base64.b64decode(api.objects[PATH]["data"]["key"])) == KEY_BYTES
    assert [call.split()[0] for call in api.calls] == ["GET", "POST", "GET"]


async def test_two_starts_at_once_agree_on_one_key() -> None:
    api = FakeApi()
    theirs = {
        "metadata": {"name": KEY_SECRET},
        "data": {"key": base64.b64encode(b"k" * 32).decode()},
    }
    async with a_client(api) as kube:
        api.order(Answer(404))
        api.put(PATH, theirs)
        tokens = await open_tokens(kube, "dsjob-system")
    assert tokens.derive("uid", "demo-1") == Tokens(b"k" * 32).derive("uid", "demo-1")


@pytest.mark.parametrize(
    "data", [{}, {"key": ""}, {"key": "c2hvcnQ="}, {"key": "%%%"}, {"other": ""}]
)
async def test_a_secret_without_a_key_is_refused_with_the_fix(data: dict[str, str]) -> None:
    api = FakeApi()
    api.put(PATH, {"metadata": {"name": KEY_SECRET}, "data": data})
    async with a_client(api) as kube:
        with pytest.raises(Invalid, match="delete it"):
            await open_tokens(kube, "dsjob-system")


def test_tokens_differ_by_key_job_and_cluster() -> None:
    derived = {
        Tokens(key).derive(uid, cluster)
        for key in (b"k" * 32, b"l" * 32)
        for uid in ("one", "two")
        for cluster in ("a", "b")
    }
    assert len(derived) == 8


def test_a_key_does_not_show_in_representations() -> None:
    assert "kkk" not in repr(Tokens(b"k" * 32))
