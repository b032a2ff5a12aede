"""The heads of all jobs of a cluster of fake nodes, in one process: `python -m tests.scale.heads`.

Nobody has the addresses of fake pods, so this machine answers for all of them (devcluster's
network.keep_here); the address that was called says which head was meant. Every head accepts any
token and any submission, and its run is at step 1 from then on, for ever. No Ray and no training
is behind it: what is measured with it are controllers alone.
"""

import asyncio
import socket
import time
from collections import defaultdict
from typing import Any

from aiohttp import web

from deepspeed_trainer.contract import (
    CONTRACT_ENV,
    PROGRESS_PATH,
    PROGRESS_PORT,
    RunContract,
)
from tests.support.head import DASHBOARD_PORT, JOBS_PATH, Run

EVERYWHERE, LOOPBACK = "0.0.0.0", b"lo"
BACKLOG = 4096
Runs = dict[str, Run]


class Crowd:
    """What each head was given to run."""

    def __init__(self) -> None:
        self._runs: dict[str, Runs] = defaultdict(dict)

    async def submit(self, request: web.Request) -> web.Response:
        """Accept a submission, once, and have it running."""
        order = await request.json()
        name, mine = order["submission_id"], self._mine(request)
        if name in mine:
            return web.Response(status=500, text=f"ValueError: Job {name} already exists.")
        mine[name] = run = Run(name, order["entrypoint"], _contract(order))
        if run.contract is None:
            run.state = "RUNNING"
        else:
            run.go_on(1)
        return web.json_response({"job_id": name, "submission_id": name})

    async def tell(self, request: web.Request) -> web.Response:
        """The state of a submission, as Ray tells it."""
        run = self._mine(request).get(request.match_info["name"])
        if run is None:
            return web.Response(status=404, text="Job does not exist")
        began_ms = round(time.time() * 1000)
        return web.json_response({**run.details(), "start_time": began_ms, "job_id": "01000000"})

    async def tell_progress(self, request: web.Request) -> web.Response:
        """The progress of a run of ours."""
        run = self._mine(request).get(request.match_info["submission_id"])
        if run is None or run.progress is None:
            return web.Response(status=404, text="no such run")
        return web.Response(text=run.progress.to_json(), content_type="application/json")

    def _mine(self, request: web.Request) -> Runs:
        assert request.transport is not None, "the request was read from it"
        return self._runs[str(request.transport.get_extra_info("sockname")[0])]


def _contract(order: dict[str, Any]) -> RunContract | None:
    """What one of our jobs tells its driver; a RayJob tells nothing of the kind."""
    variables = order.get("runtime_env", {}).get("env_vars", {})
    text = variables.get(CONTRACT_ENV)
    return RunContract.from_json(text) if text else None


async def serve() -> None:
    """Listen on both ports of every head, for ever."""
    crowd, app = Crowd(), web.Application()
    app.router.add_post(JOBS_PATH, crowd.submit)
    app.router.add_get(f"{JOBS_PATH}{{name}}", crowd.tell)
    app.router.add_get(PROGRESS_PATH, crowd.tell_progress)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for port in (DASHBOARD_PORT, PROGRESS_PORT):
        await web.SockSite(runner, listen(port), backlog=BACKLOG).start()
    await asyncio.Event().wait()


def listen(port: int) -> socket.socket:
    """A socket for every address that this machine answers for, and for this machine alone."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LOOPBACK)
    found.bind((EVERYWHERE, port))
    return found


if __name__ == "__main__":
    asyncio.run(serve())
