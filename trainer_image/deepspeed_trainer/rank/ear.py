"""Where hooks report to: a unix socket, its lines are facts; held by whoever started them."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepspeed_trainer.hooks.wire import ANSWERED


class HookEar:
    """Listens to the hooks in the child and below it: JSON lines over unix connections."""

    def __init__(self, path: Path, put: Callable[[Mapping[str, Any]], None]) -> None:
        self._put = put
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._listeners: list[threading.Thread] = []
        self._thread = self._start(self._accept)

    def finish(self) -> None:
        """Take what the child still had to say; it has ended or never called."""
        with contextlib.suppress(OSError):  # already closed
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept; close alone does not
        self._server.close()
        for thread in (self._thread, *self._listeners):
            thread.join(2.0)

    def _start(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=args, name="hook", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: nobody will call any more
            while True:
                connection, _ = self._server.accept()
                self._listeners.append(self._start(self._listen, connection))

    def _listen(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    fact = json.loads(line)
                    self._put(fact)
                    if fact["kind"] in ANSWERED:
                        connection.sendall(b"\n")
            except Exception as error:  # noqa: BLE001  the program goes on without its hook
                self._put({"kind": "hook", "failure": f"supervisor: {error!r}"[:500]})
