"""A stand-in for the Ray head: the Jobs API and the trainer's progress, with nothing behind them.

Each head has a loopback address of its own, which its pod shows as podIP, and listens there on the
ports that a real one has. It answers as Ray 2.60 does (the dashboard's job_head.py): 401 without a
token, 403 with a wrong one, 404 for an unknown submission, and 500 with a traceback for a
submission id that it knows. The test is the program: it says how a run goes on and how it ends.
"""

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override

from deepspeed_trainer.contract import (
    CONTRACT_ENV,
    PROGRESS_PATH,
    PROGRESS_PORT,
    Cause,
    Failure,
    Progress,
    RunContract,
    RunPhase,
)

DASHBOARD_PORT = 8265
JOBS_PATH = "/api/jobs/"

Answer = tuple[int, str]


@dataclass
class Run:
    """One submission that a head accepted."""

    submission_id: str
    entrypoint: str
    contract: RunContract
    state: str = "PENDING"
    message: str | None = None
    progress: Progress | None = None
    times_asked: int = 0
    """How often its state was asked for."""

    def go_on(self, step: int = 0, **figures: Any) -> None:
        """It runs and has done this many steps."""
        self._tell(step, RunPhase.RUNNING, **figures)
        self.state = "RUNNING"

    def succeed(self, step: int, **figures: Any) -> None:
        """Every rank ended well after this step."""
        self._tell(step, RunPhase.SUCCEEDED, **figures)
        self.message = "Job finished successfully."
        self.state = "SUCCEEDED"

    def fail(
        self, cause: Cause, message: str, *, step: int = 0, rank: int = 0, **figures: Any
    ) -> None:
        """A rank failed first, and the driver with it."""
        failure = Failure(cause, message, rank=rank, exit_code=1, log_tail=("Traceback:", message))
        self._tell(step, RunPhase.FAILED, failure=failure, **figures)
        self.message = "Job entrypoint command failed with exit code 10"
        self.state = "FAILED"

    def _tell(self, step: int, phase: RunPhase, **figures: Any) -> None:
        self.progress = Progress(
            submission_id=self.submission_id,
            attempt=self.contract.attempt,
            phase=phase,
            world_size=self.contract.world_size,
            nodes=self.contract.nodes,
            step=step,
            **figures,
        )

    def details(self) -> dict[str, Any]:
        """What Ray tells of a job."""
        return {
            "type": "SUBMISSION",
            "job_id": None,
            "submission_id": self.submission_id,
            "driver_info": None,
            "status": self.state,
            "entrypoint": self.entrypoint,
            "message": self.message,
            "error_type": None,
            "metadata": {},
            "runtime_env": {},
        }


Listener = Callable[[Run], None]


class Head:
    """A head that listens until it is closed. `on_submission` hears of a run before the answer."""

    def __init__(self, token: str, on_submission: Listener) -> None:
        self.token = token
        self.runs: list[Run] = []
        self.refused: list[str] = []
        """Submission ids that were offered a second time."""
        self._on_submission = on_submission
        self._answering = threading.Lock()
        self._servers: tuple[_Server, ...] = _listen(self)
        self.address = str(self._servers[0].server_address[0])

    @property
    def run(self) -> Run:
        """The newest run. Raises: LookupError when there is none yet."""
        return self.runs[-1]

    def close(self) -> None:
        """Be gone, as the pod of a head: connections are refused from now on."""
        servers, self._servers = self._servers, ()
        for server in servers:
            server.shutdown()
            server.server_close()

    def answer(self, method: str, path: str, port: int, body: bytes) -> Answer:
        """Answer one request whose token was right."""
        if port == PROGRESS_PORT:
            return self._tell_progress(path)
        if (method, path) == ("POST", JOBS_PATH):
            return self._submit(json.loads(body))
        name = path.removeprefix(JOBS_PATH).removesuffix("/stop")
        run = self._find(name)
        if run is None or not path.startswith(JOBS_PATH):
            return 404, f"Job {name} does not exist"
        if method == "POST":
            run.state = "STOPPED"
            return 200, json.dumps({"stopped": True})
        run.times_asked += 1
        return 200, json.dumps(run.details())

    def _submit(self, order: dict[str, Any]) -> Answer:
        name = order["submission_id"]
        with self._answering:
            if self._find(name) is not None:
                self.refused.append(name)
                return 500, f"ValueError: Job with submission_id {name} already exists."
            contract = RunContract.from_json(order["runtime_env"]["env_vars"][CONTRACT_ENV])
            self.runs.append(Run(name, order["entrypoint"], contract))
        self._on_submission(self.run)
        return 200, json.dumps({"job_id": name, "submission_id": name})

    def _tell_progress(self, path: str) -> Answer:
        found = (
            run.progress
            for run in self.runs
            if path == PROGRESS_PATH.format(submission_id=run.submission_id)
        )
        progress = next(found, None)
        return (404, "no such run") if progress is None else (200, progress.to_json())

    def _find(self, submission_id: str) -> Run | None:
        return next((run for run in self.runs if run.submission_id == submission_id), None)


class _Handler(BaseHTTPRequestHandler):
    """One request, one connection: a head that is closed must not go on speaking."""

    head: Head

    def _respond(self) -> None:
        status, text = self._check_token() or self._ask_head()
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _respond  # noqa: N815  the names that the standard library looks for

    def _check_token(self) -> Answer | None:
        given = self.headers.get("Authorization")
        if given is None:
            return 401, "Unauthorized: Missing authentication token"
        if given != f"Bearer {self.head.token}":
            return 403, "Forbidden: Invalid authentication token"
        return None

    def _ask_head(self) -> Answer:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        port = self.connection.getsockname()[1]
        return self.head.answer(self.command, self.path, port, body)

    @override
    def log_message(self, *_: object) -> None:
        """Tests read what the head holds; a line for each poll would bury their output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    @override
    def handle_error(self, *_: object) -> None:
        """An operator that is killed drops its connections: that is what some tests are about."""


def _addresses() -> Iterator[str]:
    """Loopback addresses, beginning anywhere, so that two test runs seldom meet."""
    start = random.randrange(250 * 250)  # noqa: S311  no secret
    for number in itertools.count(start):
        yield f"127.77.{number // 250 % 250 + 1}.{number % 250 + 1}"


_free_addresses = _addresses()


def _listen(head: Head, tries: int = 50) -> tuple[_Server, _Server]:
    """Listen on both ports of the next address that has them free."""
    handler = type("_HandlerOfOneHead", (_Handler,), {"head": head})
    for _ in range(tries):
        address = next(_free_addresses)
        with ExitStack() as undo:
            try:
                dashboard = undo.enter_context(_Server((address, DASHBOARD_PORT), handler))
                progress = undo.enter_context(_Server((address, PROGRESS_PORT), handler))
            except OSError:
                continue
            undo.pop_all()
        for server in (dashboard, progress):
            # The default of half a second would be waited for at every close.
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return dashboard, progress
    raise OSError(f"ports {DASHBOARD_PORT} and {PROGRESS_PORT} are taken on {tries} addresses")
