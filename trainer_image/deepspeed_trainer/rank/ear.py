"""Where hooks report to: a unix socket, its lines are facts; held by whoever started them."""

import contextlib
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from deepspeed_trainer.hooks.wire import ANSWERED

END_WITHIN_S: Final = 30.0
"""How long a process may take to end after its line was closed, which its own end does first."""


class HookEar:
    """Listens to the hooks in the child and below it: JSON lines over unix connections."""

    def __init__(self, path: Path, put: Callable[[Mapping[str, Any]], None]) -> None:
        self._put = put
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._listeners: list[threading.Thread] = []
        self._speakers: list[int] = []
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
        pid = _find_peer(connection)
        self._speakers.append(pid)
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    fact = json.loads(line)
                    self._put(fact)
                    if fact["kind"] in ANSWERED:
                        connection.sendall(b"\n")
            except Exception as error:  # noqa: BLE001  the program goes on without its hook
                self._put({"kind": "hook", "failure": f"supervisor: {error!r}"[:500]})
                return
        self._speakers.remove(pid)
        if not _ends(pid) and pid not in self._speakers:
            told = f"process {pid} cannot be heard any more while the program goes on"
            self._put({"kind": "hook", "failure": told})


def _find_peer(connection: socket.socket) -> int:
    """Return the process that opened the other side."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = struct.unpack("3i", found)[0]
    return pid


def _ends(pid: int) -> bool:
    """Return whether a process is gone, or soon is; one that cannot be watched counts as gone."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        end = select.poll()
        end.register(process, select.POLLIN)
        return bool(end.poll(END_WITHIN_S * 1000))
    finally:
        os.close(process)
