"""A large file goes to a bucket in parts, several of them on their way at once."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deepspeed_trainer.checkpoints.stores import CHUNK_BYTES, BucketStore

BEGUN = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
DONE = '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
PATIENCE_S = 20.0


class Bucket:
    """Answers a part only once another one is on its way: parts one by one never end."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self._two = asyncio.Event()
        self._on_their_way = 0

    async def post(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=BEGUN if "uploads" in request.query else DONE)

    async def put(self, request: web.Request) -> web.Response:
        self._on_their_way += 1
        if self._on_their_way == 2:
            self._two.set()
        try:
            await asyncio.wait_for(self._two.wait(), PATIENCE_S)
        except TimeoutError:
            return web.Response(status=403, text="parts come one by one")
        self.parts[int(request.query["partNumber"])] = await request.read()
        return web.Response(headers={"ETag": '"e"'})


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    settings: dict[str, Any] = {"ENDPOINT_URL": url}
    settings |= {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)


async def test_the_head_does_not_wait_for_a_bucket_that_never_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranks that hear nothing of the head for a minute end."""
    may_answer = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response()

    app = web.Application()
    app.router.add_put("/{path:.*}", wait)
    async with TestServer(app) as server:
        use_endpoint(monkeypatch, f"http://{server.host}:{server.port}")
        store = BucketStore.from_uri("s3://runs/team", patience_s=0.5)
        writing = asyncio.to_thread(store.write, "journal/00000001.json", b"{}")
        with pytest.raises(OSError, match="s3://runs/team"):
            await asyncio.wait_for(writing, 60)
        may_answer.set()


@pytest.mark.parametrize("setting", ["AWS_NO_SUCH_KEY", "username"])
def test_a_setting_that_the_bucket_does_not_know_is_named(setting: str) -> None:
    with pytest.raises(OSError, match=setting.lower()):
        BucketStore.from_uri("s3://runs/team", {setting: "secret-value"})


async def test_parts_of_a_large_file_are_sent_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, app = Bucket(), web.Application(client_max_size=2 * CHUNK_BYTES)
    app.router.add_post("/{path:.*}", bucket.post)
    app.router.add_put("/{path:.*}", bucket.put)
    source = tmp_path / "shard"
    source.write_bytes(bytes(range(256)) * (CHUNK_BYTES // 64) + b"end")
    async with TestServer(app) as server:
        use_endpoint(monkeypatch, f"http://{server.host}:{server.port}")
        store = BucketStore.from_uri("s3://runs/team")
        digest = await asyncio.to_thread(store.keep, source, "c/shard")
    data = source.read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    assert b"".join(bucket.parts[number] for number in sorted(bucket.parts)) == data
    assert len(bucket.parts) == 5
