"""How the operator is seen from outside: its log and its health.

A log line is an event and its fields; the job at hand is bound once per pass and stands in every
line of it.  Health is served by a server of our own, beside the watches and not by them, so that
it also tells when they have ended.
"""

import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from typing_extensions import override

_job: ContextVar[str | None] = ContextVar("job", default=None)
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextlib.contextmanager
def bind_job(name: str) -> Iterator[None]:
    """Put a job's name into every log line of the block."""
    token = _job.set(name)
    try:
        yield
    finally:
        _job.reset(token)


def set_up_logs(level: str, form: str) -> None:
    """Send all logs to stderr, as JSON or as text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kopf tells of every single event that it handled.
    logging.getLogger("kopf.objects").setLevel(max(logging.getLevelName(level), logging.WARNING))
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _collect_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`, and the job at hand."""
    found = {name: value for name, value in vars(record).items() if name not in _PLAIN}
    found.pop("settings", None)  # kopf's, and no news
    job = _job.get()
    return found if job is None else {"job": job, **found}


class _JsonFormatter(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_collect_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _collect_fields(record).items())
        return f"{super().format(record)} {fields}".rstrip()


@contextlib.asynccontextmanager
async def serve_health(
    port: int,
    *,
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
    host: str | None = None,
) -> AsyncIterator[int]:
    """Serve /healthz and /readyz during the block, on all addresses unless `host` names one.

    Yields the port; 0 chooses a free one.
    """

    def answer(holds: Callable[[], bool]) -> Callable[[web.Request], Any]:
        async def respond(_: web.Request) -> web.Response:
            return web.Response(text="ok") if holds() else web.Response(status=503, text="no")

        return respond

    app = web.Application()
    app.add_routes([web.get("/healthz", answer(is_alive)), web.get("/readyz", answer(is_ready))])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
