"""Ray heads in this process: a polite one that keeps submissions, and raw ones that lie.

Each head has a loopback address of its own, as pods have, and all share the two ports.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from deepspeed_operator.clients.rayhead import HeadClient
from deepspeed_trainer.contract import Progress
from tests.support.fakeapi import serving

TOKEN = "sesame-open-up"
Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeHead:
    """A head that plays by the rules."""

    token: str = TOKEN
    jobs: dict[str, str] = field(default_factory=dict)
    submitted: list[dict[str, object]] = field(default_factory=list)
    progress: dict[str, Progress] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failures: int = 0
    """How many of the next questions are answered by an error."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.failures > 0:
            self.failures -= 1
            return web.Response(status=503)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if request.method == "POST":
            return await self._submit(request)
        name = request.path.rsplit("/", 1)[-1]
        if request.path.startswith("/v1/progress/"):
            known = self.progress.get(name)
            return web.Response(text=known.to_json()) if known else web.Response(status=404)
        if name not in self.jobs:
            return web.Response(status=404, text="no such job")
        return web.json_response({"status": self.jobs[name], "message": "as Ray says"})

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/stop"):
            return web.json_response({"stopped": True})
        body = await request.json()
        if body["submission_id"] in self.jobs:
            return web.Response(status=500, text="Traceback: the id is taken")
        self.jobs[body["submission_id"]] = "PENDING"
        self.submitted.append(body)
        return web.json_response({"submission_id": body["submission_id"]})


@asynccontextmanager
async def heads(*polite: FakeHead, deadline_s: float = 5) -> AsyncIterator[tuple[HeadClient, int]]:
    """Serve polite heads at 127.0.0.1, 127.0.0.2 ...  Yields a client and the shared port."""
    async with serving(polite[0].answer) as port:
        others = [
            serving(head.answer, f"127.0.0.{number}", port)
            for number, head in enumerate(polite[1:], start=2)
        ]
        for other in others:
            await other.__aenter__()
        try:
            async with HeadClient(
                dashboard_port=port, progress_port=port, deadline_s=deadline_s
            ) as client:
                yield client, port
        finally:
            for other in others:
                await other.__aexit__(None, None, None)


@asynccontextmanager
async def raw_head(talk: Raw, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve bytes instead of HTTP.  Yields the port."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(meet, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
