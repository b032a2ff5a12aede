"""One job's Ray head: hand over a run, ask after it, read its progress.

The head runs its user's image, so everything it says is hostile until it was read strictly:
bounded bodies, one deadline for all of an answer, no redirects, cookies, proxies or compression.
No retries here: who asks decides when to ask again.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Final, Self

import aiohttp

from deepspeed_operator.errors import HeadAnswerInvalid, HeadDenied, HeadUnreachable
from deepspeed_trainer.contract import (
    MAX_PROGRESS_BYTES,
    PROGRESS_PATH,
    PROGRESS_PORT,
    ContractError,
    Progress,
)

DASHBOARD_PORT: Final = 8265
"""Where Ray's head serves its Jobs API."""
MAX_STATUS_BYTES: Final = 64 * 1024
MAX_MESSAGE_CHARS: Final = 2048
MAX_QUOTE_BYTES: Final = 300
DEADLINE_S: Final = 5.0
MAX_CONNECTIONS: Final = 128
MAX_CONNECTIONS_PER_HEAD: Final = 2

_JOBS_PATH: Final = "/api/jobs/"


class JobState(StrEnum):
    """Ray's own words for the state of a submission."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class HeadAddress:
    """Where a head listens and the token that it asks for."""

    ip: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class HeadClient:
    """Speaks to heads.

    Every method raises HeadUnreachable, HeadDenied or HeadAnswerInvalid.
    """

    def __init__(
        self,
        *,
        dashboard_port: int = DASHBOARD_PORT,
        progress_port: int = PROGRESS_PORT,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._dashboard_port = dashboard_port
        self._progress_port = progress_port
        self._deadline_s = deadline_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS, limit_per_host=MAX_CONNECTIONS_PER_HEAD
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(
        self, head: HeadAddress, submission_id: str, command: str, env: Mapping[str, str]
    ) -> None:
        """Start a run, unless the head knows its submission id already."""
        body = {
            "submission_id": submission_id,
            "entrypoint": command,
            "runtime_env": {"env_vars": dict(env)},
            "metadata": {"job_submission_id": submission_id},
        }
        answer = await self._ask("POST", self._jobs_url(head), head, body=body)
        if answer.status == 200:
            return
        # Ray refuses an id that it knows with the same 500 as it gives for everything else.
        if await self.status(head, submission_id) is None:
            raise HeadAnswerInvalid(
                f"the head refused the run with status {answer.status}: {_quote(answer.body)}"
            )

    async def status(
        self, head: HeadAddress, submission_id: str
    ) -> tuple[JobState, str | None] | None:
        """Return Ray's state and message of a submission, or None when the head knows none."""
        answer = await self._ask("GET", self._jobs_url(head, submission_id), head)
        if answer.status == 404:
            return None
        found = _read_object(answer)
        try:
            state = JobState(found["status"])
        except (KeyError, ValueError) as error:
            raise HeadAnswerInvalid("the head's answer has no status that Ray knows") from error
        message = found.get("message")
        return state, message[:MAX_MESSAGE_CHARS] if isinstance(message, str) else None

    async def progress(self, head: HeadAddress, submission_id: str) -> Progress | None:
        """Return how far the run is, or None when the trainer knows no such submission."""
        path = PROGRESS_PATH.format(submission_id=submission_id)
        url = _url(head, self._progress_port, path)
        answer = await self._ask("GET", url, head, max_bytes=MAX_PROGRESS_BYTES)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise HeadAnswerInvalid(f"the progress endpoint answers {answer.status}")
        try:
            progress = Progress.from_json(answer.body)
        except ContractError as error:
            raise HeadAnswerInvalid(f"the progress breaks the contract: {error}") from error
        if progress.submission_id != submission_id:
            raise HeadAnswerInvalid("the progress is that of another submission")
        return progress

    async def stop(self, head: HeadAddress, submission_id: str) -> None:
        """Ask the head to end a run; one that it does not know is fine."""
        answer = await self._ask("POST", self._jobs_url(head, submission_id, "/stop"), head)
        if answer.status != 404:
            _read_object(answer)

    def _jobs_url(self, head: HeadAddress, submission_id: str = "", rest: str = "") -> str:
        return _url(head, self._dashboard_port, f"{_JOBS_PATH}{submission_id}{rest}")

    async def _ask(
        self,
        method: str,
        url: str,
        head: HeadAddress,
        *,
        body: Mapping[str, Any] | None = None,
        max_bytes: int = MAX_STATUS_BYTES,
    ) -> _Answer:
        """Send one request.  The only place where errors of the network become ours."""
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._session.request(
                    method,
                    url,
                    json=body,
                    headers={"Authorization": f"Bearer {head.token}"},
                    allow_redirects=False,
                ) as response,
            ):
                text = await _read_body(response, max_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The text of a parser's error may hold what the head sent.
            said = str(error).replace(head.token, "***") or "no complete answer in time"
            reason = _quote(said.encode(errors="replace"))
            raise HeadUnreachable(f"the head at {head.ip} cannot be asked: {reason}") from error
        # A head that echoes its token must not bring it into logs and conditions.
        answer = _Answer(response.status, text.replace(head.token.encode(), b"***"))
        if answer.status in (401, 403):
            raise HeadDenied(f"the head at {head.ip} refuses the token ({answer.status})")
        if 300 <= answer.status < 400:
            raise HeadAnswerInvalid(f"the head at {head.ip} answers with a redirect")
        return answer


def _url(head: HeadAddress, port: int, path: str) -> str:
    try:
        ip = ip_address(head.ip)
    except ValueError as error:
        raise HeadUnreachable(f"the head's pod has no address but {head.ip!r}") from error
    return f"http://{f'[{ip}]' if ip.version == 6 else ip}:{port}{path}"


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read at most one byte more than allowed, so that an endless body costs nothing."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise HeadAnswerInvalid("the head's answer is compressed, which nobody asked for")
    body = bytearray()
    while len(body) <= max_bytes:
        part = await response.content.read(max_bytes + 1 - len(body))
        if not part:
            return bytes(body)
        body += part
    raise HeadAnswerInvalid(f"the head's answer is longer than {max_bytes} bytes")


def _read_object(answer: _Answer) -> Mapping[str, Any]:
    if answer.status != 200:
        raise HeadAnswerInvalid(f"the head answers {answer.status}: {_quote(answer.body)}")
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise HeadAnswerInvalid("the head's answer is no JSON") from error
    if not isinstance(found, dict):
        raise HeadAnswerInvalid("the head's answer is no JSON object")
    return found


def _quote(body: bytes) -> str:
    """Return the start of an answer in a form that is harmless in logs and conditions."""
    text = body[:MAX_QUOTE_BYTES].decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()
