"""Stands between the operator and the API server, counts its writes, and strikes after one of them.

    with ApiProxy(cluster, folder) as proxy:
        proxy.strike_after(3, operator.kill, about="a-job")

The third write about that job reaches the API server and is answered; then `operator.kill` is
called, and only then, if anybody still listens, is the answer passed on. TLS on both legs; tokens
pass through.
"""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from devcluster.cluster import Cluster
from devcluster.pki import Authority, Pair

READS = frozenset({"GET", "HEAD", "OPTIONS"})
# These describe one leg of the way and not the message.
HOP_BY_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding"})


class ApiProxy:
    """Passes everything on."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._upstream = cluster.server
        self._upstream_tls = ssl.create_default_context(cadata=_authority_of(cluster))
        authority = Authority(folder, datetime.now(UTC))  # noqa: TID251  certificates begin now
        self._own_tls = _server_context(authority.issue("proxy", "proxy", hosts=["127.0.0.1"]))
        self.authority = authority.cert_path
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._port = 0
        self._about = b""
        self._written = 0
        self._strike_at = 0
        self._strike: Callable[[], None] = lambda: None

    @property
    def server(self) -> str:
        """The address for a kubeconfig."""
        return f"https://127.0.0.1:{self._port}"

    def strike_after(self, writes: int, strike: Callable[[], None], *, about: str) -> None:
        """Count anew what names `about`, and call `strike` after that many accepted writes."""
        self._about = about.encode()
        self._written, self._strike_at, self._strike = 0, writes, strike

    def redirect(self, kubeconfig: dict[str, Any]) -> dict[str, Any]:
        """The same kubeconfig by way of this proxy."""
        own = {
            "server": self.server,
            "certificate-authority-data": base64.b64encode(self.authority.read_bytes()).decode(),
        }
        [entry] = kubeconfig["clusters"]
        return {**kubeconfig, "clusters": [{**entry, "cluster": own}]}

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(30):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        # Who drops a watch, by dying for instance, ends it on the far side, too.
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        connector = aiohttp.TCPConnector(ssl=self._upstream_tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._own_tls)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await self._ended.wait()
            await runner.cleanup()
        # Transports that were closed just now end in the loop's next turns.
        await asyncio.sleep(0.1)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self._session.request(
            request.method,
            self._upstream + request.raw_path,
            headers=_end_to_end(request.headers),
            # Even an empty body would be sent with a type, which the API server refuses.
            data=body or None,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            allow_redirects=False,
        ) as answer:
            headers = _end_to_end(answer.headers)
            if request.method not in READS and self._about in request.raw_path.encode() + body:
                whole = await answer.read()
                self._count(answer.status)
                return web.Response(status=answer.status, headers=headers, body=whole)
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response

    def _count(self, status: int) -> None:
        if status < 400:
            self._written += 1
            if self._written == self._strike_at:
                self._strike()


def _end_to_end(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def _server_context(pair: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    return context


def _authority_of(cluster: Cluster) -> str:
    [entry] = json.loads(cluster.kubeconfig.read_text())["clusters"]
    return base64.b64decode(entry["cluster"]["certificate-authority-data"]).decode()
