"""A small API server in this process: enough of Kubernetes to see what a client really sends.

It keeps objects, counts versions, honours UIDs and locks, and fails when it is told to.  What a
real API server does beyond that is seen in tests/cluster.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from deepspeed_operator.clients.kube import KubeClient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Any


@dataclass(frozen=True)
class Answer:
    """An answer that was ordered in advance."""

    status: int
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve every request by this handler.  Yields the port."""
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class FakeApi:
    """Objects by path, and everything that was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.seen: list[Seen] = []
        self.ordered: deque[Answer] = deque()
        self.delay_s = 0.0
        self.most_at_once = 0
        self._at_once = 0
        self._versions = itertools.count(100)

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Place an object as if somebody else had written it."""
        held = self.objects.get(path)
        meta = {
            "uid": f"uid-{next(self._versions)}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T12:00:00Z",
        }
        meta |= held["metadata"] if held is not None else {}
        meta |= body.get("metadata", {})
        meta["resourceVersion"] = str(next(self._versions))
        self.objects[path] = {**(held or {}), **body, "metadata": meta}
        return self.objects[path]

    def order(self, *answers: Answer) -> None:
        """Give these answers to the next requests, whatever they are."""
        self.ordered.extend(answers)

    @property
    def calls(self) -> list[str]:
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        seen = Seen(request.method, request.path, dict(request.query), request.content_type, body)
        self.seen.append(seen)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay_s)
            found = self.ordered.popleft() if self.ordered else self._act(seen)
        finally:
            self._at_once -= 1
        text = found.body if isinstance(found.body, str) else json.dumps(found.body)
        return web.Response(status=found.status, text=text, headers=found.headers)

    def _act(self, seen: Seen) -> Answer:
        match seen.method:
            case "GET":
                held = self.objects.get(seen.path)
                return Answer(200, held) if held is not None else _refuse(404, "not found")
            case "POST":
                path = f"{seen.path}/{seen.body['metadata']['name']}"
                if path in self.objects:
                    return _refuse(409, "already exists")
                return Answer(201, self.put(path, seen.body))
            case "PATCH":
                return self._patch(seen)
            case "DELETE":
                return self._delete(seen)
        return _refuse(405, "not allowed")

    def _patch(self, seen: Seen) -> Answer:
        path, meta = seen.path.removesuffix("/status"), dict(seen.body["metadata"])
        held = self.objects.get(path)
        if held is None and path != seen.path:
            return _refuse(404, "not found")
        for name in ("uid", "resourceVersion"):
            if (
                held is not None
                and meta.get(name, held["metadata"][name]) != held["metadata"][name]
            ):
                return _refuse(409, f"another {name}")
        if path != seen.path:
            return Answer(200, self.put(path, {"status": seen.body["status"]}))
        return Answer(200, self.put(path, seen.body))

    def _delete(self, seen: Seen) -> Answer:
        held = self.objects.get(seen.path)
        if held is None:
            return _refuse(404, "not found")
        if seen.body["preconditions"]["uid"] != held["metadata"]["uid"]:
            return _refuse(409, "another uid")
        del self.objects[seen.path]
        return Answer(200, {"kind": "Status", "status": "Success"})


def _refuse(status: int, message: str) -> Answer:
    return Answer(status, {"kind": "Status", "message": message})


@asynccontextmanager
async def a_client(api: FakeApi, *, timeout_s: float = 5) -> AsyncIterator[KubeClient]:
    """Serve the API and connect to it."""
    async with serving(api.answer) as port:
        configuration = Configuration(host=f"http://127.0.0.1:{port}")
        async with KubeClient(configuration, timeout_s=timeout_s, pauses_s=(0.01, 0.01)) as kube:
            yield kube
