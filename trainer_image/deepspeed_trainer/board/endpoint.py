"""The HTTP endpoint on the head that the operator pulls progress from.

One path, one method, Ray's own token: nothing that a caller sends is looked at beyond the path and
the token, and a slow caller costs one of a few threads for a few seconds.
"""

import hmac
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from typing_extensions import override

from deepspeed_trainer.contract import PROGRESS_PATH

MAX_CALLERS: Final = 16
CALLER_TIMEOUT_S: Final = 5.0


class ProgressServer(ThreadingHTTPServer):
    """Serves `find(submission_id)` to callers who know the token; None is 404."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, port: int, token: str, find: Callable[[str], str | None]) -> None:
        if socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        self.token = token.encode()
        self.find = find
        self._places = threading.BoundedSemaphore(MAX_CALLERS)
        super().__init__(("", port), _ProgressRequest)

    @override
    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    @override
    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up or is too slow is its own problem."""

    def start(self) -> None:
        """Serve in a thread of its own until the process ends."""
        threading.Thread(target=self.serve_forever, name="progress", daemon=True).start()


class _ProgressRequest(BaseHTTPRequestHandler):
    timeout = CALLER_TIMEOUT_S
    server_version = "dsjob"
    sys_version = ""
    prefix: ClassVar[str] = PROGRESS_PATH.partition("{")[0]

    def do_GET(self) -> None:
        """Answer with 200, 401 or 404."""
        server = self.server
        assert isinstance(server, ProgressServer)  # noqa: S101  only this server makes us
        given = self.headers.get("Authorization", "").encode()
        if not server.token or not hmac.compare_digest(given, b"Bearer " + server.token):
            self._answer(HTTPStatus.UNAUTHORIZED, '{"error": "send the cluster\'s Ray token"}')
            return
        known = self.path.startswith(self.prefix)
        body = server.find(self.path.removeprefix(self.prefix)) if known else None
        if body is None:
            self._answer(HTTPStatus.NOT_FOUND, '{"error": "no such run on this head"}')
            return
        self._answer(HTTPStatus.OK, body)

    def _answer(self, status: HTTPStatus, body: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """A line per poll would drown the log."""
