"""A registry for images, as much of one as a push and a pull need; everything lies in a folder."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

CHUNK = 1 << 20


class Registry:
    """What was pushed: blobs by digest, manifests by name and by digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests: dict[str, tuple[str, bytes]] = {}

    def routes(self) -> list[web.RouteDef]:
        upload = "/v2/{name:.+}/blobs/uploads/"
        blob, manifest = "/v2/{name:.+}/blobs/{digest}", "/v2/{name:.+}/manifests/{reference}"
        return [
            web.get("/v2/", self._greet),
            web.post(upload, self._open),
            web.patch(upload + "{id}", self._take),
            web.put(upload + "{id}", self._close),
            web.get(blob, self._show_blob),
            web.put(manifest, self._take_manifest),
            web.get(manifest, self._show_manifest),
        ]

    async def _greet(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _open(self, request: web.Request) -> web.Response:
        return _accepted(f"{request.path}{secrets.token_hex(8)}")

    async def _take(self, request: web.Request) -> web.Response:
        with (self.folder / request.match_info["id"]).open("ab") as file:
            async for chunk in request.content.iter_chunked(CHUNK):
                file.write(chunk)
        return _accepted(request.path)

    async def _close(self, request: web.Request) -> web.Response:
        part = self.folder / request.match_info["id"]
        with part.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != request.query["digest"]:
            raise web.HTTPBadRequest(text=f"this is {found}")
        part.rename(self.folder / found)
        return web.Response(status=201)

    async def _show_blob(self, request: web.Request) -> web.StreamResponse:
        path = self.folder / request.match_info["digest"]
        if not path.exists():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    async def _take_manifest(self, request: web.Request) -> web.Response:
        body = await request.read()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for reference in (request.match_info["reference"], digest):
            name = f"{request.match_info['name']}:{reference}"
            self.manifests[name] = request.headers["Content-Type"], body
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    async def _show_manifest(self, request: web.Request) -> web.Response:
        found = self.manifests.get("{name}:{reference}".format(**request.match_info))
        if found is None:
            raise web.HTTPNotFound
        kind, body = found
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
        return web.Response(body=body, headers=headers)


def _accepted(where: str) -> web.Response:
    return web.Response(status=202, headers={"Location": where, "Range": "0-0"})


@asynccontextmanager
async def registry(folder: Path) -> AsyncIterator[str]:
    """A registry that serves on loopback, and its address as images name it."""
    app = web.Application()
    app.add_routes(Registry(folder).routes())
    async with TestServer(app) as server:
        yield f"{server.host}:{server.port}"
