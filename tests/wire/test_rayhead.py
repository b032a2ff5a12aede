"""The head client against polite and hostile heads in this process.

The head runs its user's image, so each way of lying must end quickly, cheaply and as a HeadError.
Excluded: what a real Ray head answers (tests/node).
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from deepspeed_operator.clients.rayhead import (
    MAX_STATUS_BYTES,
    HeadAddress,
    HeadClient,
    JobState,
)
from deepspeed_operator.errors import HeadAnswerInvalid, HeadDenied, HeadError, HeadUnreachable
from deepspeed_trainer.contract import MAX_PROGRESS_BYTES, Progress
from tests.support.fakeapi import serving
from tests.support.fakehead import TOKEN, FakeHead, heads, raw_head

HEAD = HeadAddress("127.0.0.1", TOKEN)
Ask = Callable[[HeadClient], Coroutine[Any, Any, Any]]
ASKS: dict[str, Ask] = {
    "status": lambda client: client.status(HEAD, "run-a1"),
    "progress": lambda client: client.progress(HEAD, "run-a1"),
    "submit": lambda client: client.submit(HEAD, "run-a1", "python", {}),
    "stop": lambda client: client.stop(HEAD, "run-a1"),
}
every_ask = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)


@asynccontextmanager
async def a_client_at(port: int, deadline_s: float = 5) -> AsyncIterator[HeadClient]:
    async with HeadClient(dashboard_port=port, progress_port=port, deadline_s=deadline_s) as client:
        yield client


@asynccontextmanager
async def answering(response: Callable[[], web.Response]) -> AsyncIterator[HeadClient]:
    async def answer(_: web.Request) -> web.Response:
        return response()

    async with serving(answer) as port, a_client_at(port) as client:
        yield client


async def test_a_run_is_handed_over_once_with_its_environment() -> None:
    head = FakeHead()
    async with heads(head) as (client, _):
        await client.submit(HEAD, "run-a1", "python -m driver", {"A": "1"})
        await client.submit(HEAD, "run-a1", "python -m driver", {"A": "1"})
    [submitted] = head.submitted
    assert submitted["entrypoint"] == "python -m driver"
    assert submitted["runtime_env"] == {"env_vars": {"A": "1"}}


async def test_a_run_that_the_head_refuses_is_told_in_its_words() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.Response(status=500, text="disk full\x1b[31m")
        return web.Response(status=404)

    async with serving(answer) as port, a_client_at(port) as client:
        with pytest.raises(HeadAnswerInvalid, match="disk full") as caught:
            await client.submit(HEAD, "run-a1", "python", {})
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("state", JobState)
async def test_each_state_of_ray_is_known(state: JobState) -> None:
    head = FakeHead(jobs={"run-a1": state})
    async with heads(head) as (client, _):
        assert await client.status(HEAD, "run-a1") == (state, "as Ray says")


async def test_an_unknown_submission_is_none() -> None:
    async with heads(FakeHead()) as (client, _):
        assert await client.status(HEAD, "run-a1") is None
        assert await client.progress(HEAD, "run-a1") is None
        await client.stop(HEAD, "run-a1")


async def test_progress_comes_through_the_contract() -> None:
    said = Progress(submission_id="run-a1", attempt=1, step=7)
    async with heads(FakeHead(progress={"run-a1": said})) as (client, _):
        assert await client.progress(HEAD, "run-a1") == said


@every_ask
async def test_another_token_is_denied(ask: Ask) -> None:
    async with heads(FakeHead(token="another")) as (client, _):
        with pytest.raises(HeadDenied) as caught:
            await ask(client)
    assert TOKEN not in str(caught.value)


@every_ask
async def test_a_closed_port_is_unreachable(ask: Ask) -> None:
    async with a_client_at(1) as client:
        with pytest.raises(HeadUnreachable):
            await ask(client)


@every_ask
async def test_a_head_that_never_answers_is_given_up(ask: Ask) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_head(silent) as port, a_client_at(port, deadline_s=0.2) as client:
        with pytest.raises(HeadUnreachable, match="in time"):
            await ask(client)


@every_ask
async def test_a_body_in_drips_does_not_outlive_the_deadline(ask: Ask) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_head(drip) as port, a_client_at(port, deadline_s=0.3) as client:
        with pytest.raises(HeadUnreachable):
            await ask(client)


@dataclass
class Flood:
    """Sends without end and counts what it got rid of."""

    sent: int = 0

    async def pour(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b"[" * 65536)
            await writer.drain()
            self.sent += 65536


@pytest.mark.parametrize("name", ["status", "progress", "stop"])
async def test_an_endless_body_is_cut_off_early(name: str) -> None:
    flood = Flood()
    async with raw_head(flood.pour) as port, a_client_at(port) as client:
        with pytest.raises(HeadAnswerInvalid, match="longer than"):
            await ASKS[name](client)
    # What lies in the sockets' buffers counts too, so this is far above the limit on bodies.
    assert flood.sent < 32 * 1024 * 1024


HEADERS = b"".join(b"X-%d: abc\r\n" % number for number in range(5000))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", HEADERS),
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", TOKEN.encode() * 4096),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "chunk extension": (CHUNKED + b"5;", b"a" * 65536),
    "trailers": (CHUNKED + b"0\r\n", HEADERS),
    "chunks": (CHUNKED, b"1\r\na\r\n" * 10_000),
    "rubbish": (b"", TOKEN.encode() * 4096),
}


@pytest.mark.parametrize(("first", "rest"), FLOODS.values(), ids=FLOODS)
async def test_an_endless_answer_of_any_kind_ends_with_the_deadline(
    first: bytes, rest: bytes
) -> None:
    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(rest)
            await writer.drain()

    async with raw_head(pour) as port, a_client_at(port, deadline_s=0.3) as client:
        with pytest.raises(HeadError) as caught:
            await client.status(HEAD, "run-a1")
    assert TOKEN not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "limit"), [("status", MAX_STATUS_BYTES), ("progress", MAX_PROGRESS_BYTES)]
)
async def test_one_byte_too_many_is_refused(name: str, limit: int) -> None:
    text = json.dumps({"status": "RUNNING", "message": ""})
    async with answering(lambda: web.Response(text=text.ljust(limit + 1))) as client:
        with pytest.raises(HeadAnswerInvalid, match="longer than"):
            await ASKS[name](client)


async def test_an_answer_of_just_the_limit_is_read() -> None:
    text = json.dumps({"status": "RUNNING", "message": ""})
    async with answering(lambda: web.Response(text=text.ljust(MAX_STATUS_BYTES))) as client:
        assert await client.status(HEAD, "run-a1") == (JobState.RUNNING, "")


@every_ask
async def test_a_compressed_answer_is_not_unpacked(ask: Ask) -> None:
    bomb = gzip.compress(b"0" * 1_000_000)
    packed = {"Content-Encoding": "gzip"}
    async with answering(lambda: web.Response(body=bomb, headers=packed)) as client:
        with pytest.raises(HeadAnswerInvalid, match="compressed"):
            await ask(client)


@every_ask
async def test_a_redirect_is_not_followed(ask: Ask) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"status": "SUCCEEDED"})

    async with serving(elsewhere) as other:
        moved = {"Location": f"http://127.0.0.1:{other}/"}
        async with answering(lambda: web.Response(status=307, headers=moved)) as client:
            with pytest.raises(HeadAnswerInvalid, match="redirect"):
                await ask(client)
    assert asked == []


LIES = {
    "no JSON": "<html>",
    "nothing": "",
    "a list": "[]",
    "a number": "5",
    "deep nesting": "[" * 60_000,
    "no status": "{}",
    "a state that Ray does not have": '{"status": "WINNING"}',
    "a state of another type": '{"status": {"a": 1}}',
    "no text": '{"status": "RUN\ud800NING"}',
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("name", ["status", "progress"])
async def test_an_answer_of_the_wrong_shape_is_refused(name: str, lie: str) -> None:
    body = lie.encode(errors="surrogatepass")
    async with answering(lambda: web.Response(body=body)) as client:
        with pytest.raises(HeadAnswerInvalid):
            await ASKS[name](client)


async def test_a_message_of_another_type_or_length_does_no_harm() -> None:
    answers = iter(
        [{"status": "FAILED", "message": ["x"]}, {"status": "FAILED", "message": "y" * 9999}]
    )
    async with answering(lambda: web.json_response(next(answers))) as client:
        assert await client.status(HEAD, "run-a1") == (JobState.FAILED, None)
        found = await client.status(HEAD, "run-a1")
    assert found is not None
    assert found[1] == "y" * 2048


async def test_progress_of_another_run_is_refused() -> None:
    other = Progress(submission_id="run-a2", attempt=2).to_json()
    async with answering(lambda: web.Response(text=other)) as client:
        with pytest.raises(HeadAnswerInvalid, match="another submission"):
            await client.progress(HEAD, "run-a1")


@pytest.mark.parametrize("status", [204, 302, 400, 418, 500, 503])
@pytest.mark.parametrize("name", ["status", "progress", "stop"])
async def test_any_other_status_is_an_invalid_answer(name: str, status: int) -> None:
    async with answering(lambda: web.Response(status=status)) as client:
        with pytest.raises(HeadAnswerInvalid):
            await ASKS[name](client)


async def test_a_head_that_echoes_its_token_does_not_bring_it_into_messages() -> None:
    async with answering(lambda: web.Response(status=500, text=f"env: {TOKEN}")) as client:
        with pytest.raises(HeadAnswerInvalid, match="env:") as caught:
            await client.status(HEAD, "run-a1")
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(HEAD)


async def test_cookies_are_not_kept() -> None:
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = web.json_response({"status": "RUNNING"})
        response.set_cookie("a", "b")
        return response

    async with serving(answer) as port, a_client_at(port) as client:
        await client.status(HEAD, "run-a1")
        await client.status(HEAD, "run-a1")
    assert cookies == [None, None]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with heads(FakeHead(jobs={"run-a1": "RUNNING"})) as (client, _):
        assert await client.status(HEAD, "run-a1") is not None


async def test_a_pod_without_an_address_is_unreachable() -> None:
    async with a_client_at(1) as client:
        with pytest.raises(HeadUnreachable, match="no address"):
            await client.status(HeadAddress("head.example", TOKEN), "run-a1")
