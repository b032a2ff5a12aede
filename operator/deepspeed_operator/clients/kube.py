"""The API server, as far as this operator needs it: plain dicts in and out, our own errors.

Authentication, TLS and token rotation are the official client's; its typed models are left out,
because they cost memory and refuse fields that they do not know.  Only what may be repeated
without harm is repeated here, and only briefly: a longer wait is the inbox's business.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from deepspeed_operator.api import names
from deepspeed_operator.clients.kinds import Kind, Object, kind_of
from deepspeed_operator.errors import (
    ApiError,
    ApiUnreachable,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    Throttled,
)

PAGE_SIZE: Final = 500
MAX_WAIT_S: Final = 5.0
"""A longer Retry-After is left to the inbox, so that no worker is held up by it."""
MAX_MESSAGE_CHARS: Final = 1000

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"
_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
}


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the objects of a list, and the version of the whole list."""

    items: Sequence[Object]
    resource_version: int


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None
    content_type: str = _JSON
    repeatable: bool = True


class KubeClient:
    """Reads and writes objects.

    Every method raises the ApiError of the server's answer, or ApiUnreachable.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout_s: float = 30,
        pauses_s: Sequence[float] = (0.2, 0.8),
    ) -> None:
        self._client = ApiClient(configuration)
        self._client.user_agent = names.FIELD_OWNER
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 5))
        self._pauses_s = pauses_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """Read one object."""
        return await self._call(_Request("GET", kind.path(namespace, name)))

    async def pages(
        self, kind: Kind, namespace: str | None = None, selector: str | None = None
    ) -> AsyncIterator[Page]:
        """List objects page by page, so that the raw ones need not be in memory all at once."""
        query = {"limit": str(PAGE_SIZE)}
        if selector is not None:
            query["labelSelector"] = selector
        more = True
        while more:
            found = await self._call(_Request("GET", kind.path(namespace), query))
            for item in found["items"]:
                # Lists of built-in kinds leave these out of their items.
                item.update(apiVersion=kind.api_version, kind=kind.kind)
            yield Page(found["items"], int(found["metadata"]["resourceVersion"]))
            query["continue"] = found["metadata"].get("continue") or ""
            more = bool(query["continue"])

    async def serves(self, kind: Kind) -> bool:
        """Tell whether the API server knows this kind."""
        try:
            found = await self._call(_Request("GET", kind.group_path))
        except NotFound:
            return False
        return any(resource["name"] == kind.plural for resource in found["resources"])

    async def apply(self, body: Mapping[str, Any]) -> Object:
        """Write what we want of an object by server-side apply; it is made if it is not there."""
        meta = body["metadata"]
        path = kind_of(body).path(meta.get("namespace"), meta["name"])
        return await self._apply(path, body)

    async def apply_status(
        self, body: Mapping[str, Any], *, resource_version: str | None = None
    ) -> Object:
        """Write the whole status of an object; `body` has its name and UID and nothing else.

        Raises:
            Conflict: the object has another UID, or changed since `resource_version`.
        """
        meta = dict(body["metadata"])
        if resource_version is not None:
            meta["resourceVersion"] = resource_version
        path = kind_of(body).path(meta["namespace"], meta["name"], "status")
        return await self._apply(path, {**body, "metadata": meta})

    async def _apply(self, path: str, body: Mapping[str, Any]) -> Object:
        query = {"fieldManager": names.FIELD_OWNER, "force": "true"}
        return await self._call(_Request("PATCH", path, query, body, _APPLY))

    async def create(self, body: Mapping[str, Any]) -> Object:
        """Make an object.  Not repeated when the answer was lost: it may have been made.

        Raises:
            Conflict: it exists.
        """
        path = kind_of(body).path(body["metadata"].get("namespace"))
        query = {"fieldManager": names.FIELD_OWNER}
        return await self._call(_Request("POST", path, query, body, repeatable=False))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete an object if it still has this UID; one that is gone or replaced is fine."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        try:
            await self._call(_Request("DELETE", kind.path(namespace, name), body=options))
        except (NotFound, Conflict):
            return

    async def _call(self, request: _Request) -> Object:
        for pause_s in self._pauses_s:
            try:
                return await self._send(request)
            except (Throttled, ApiUnreachable) as error:
                wanted_s = error.retry_after_s if isinstance(error, Throttled) else None
                if not _may_repeat(request, error) or (wanted_s or 0) > MAX_WAIT_S:
                    raise
                jittered_s = pause_s * random.uniform(0.5, 1.5)  # noqa: S311  no secret
                await asyncio.sleep(max(wanted_s or 0, jittered_s))
        return await self._send(request)

    async def _send(self, request: _Request) -> Object:
        """Send once.  The only place where foreign errors become ours."""
        try:
            method, url, headers, body, _ = await self._client.param_serialize(
                request.method,
                request.path,
                query_params=dict(request.query or {}),
                header_params={"Accept": _JSON, "Content-Type": request.content_type},
                body=dict(request.body) if request.body is not None else None,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(
                method, url, headers, body, _request_timeout=self._timeout
            )
            text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or "no answer in time"
            raise ApiUnreachable(f"{request.method} {request.path}: {reason}") from error
        if not 200 <= response.status < 300:
            raise _derive_error(response.status, response.headers, text)
        return _read_object(request, text)


def _may_repeat(request: _Request, error: Throttled | ApiUnreachable) -> bool:
    """A 429 was refused before anything was done; after other failures nobody knows."""
    return request.repeatable or (isinstance(error, Throttled) and error.status == 429)


def _read_object(request: _Request, text: bytes) -> Object:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ApiUnreachable(f"{request.method} {request.path}: the answer is no JSON") from error
    if not isinstance(found, dict):
        raise ApiUnreachable(f"{request.method} {request.path}: the answer is no object")
    return found


def _derive_error(status: int, headers: Mapping[str, str], text: bytes) -> ApiError:
    message = _read_message(text)
    if status == 429 or status >= 500:
        return Throttled(status, message, _read_seconds(headers.get("Retry-After")))
    return _ERRORS.get(status, Invalid)(status, message)


def _read_message(text: bytes) -> str:
    """Return the message of a Status object, else what was sent."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    message = found.get("message") if isinstance(found, dict) else None
    return str(message or text.decode(errors="replace"))[:MAX_MESSAGE_CHARS]


def _read_seconds(text: str | None) -> float | None:
    # The other form of Retry-After, a date, is not used by API servers.
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
