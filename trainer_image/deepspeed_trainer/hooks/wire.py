"""From a rank's process to its supervisor: facts on a socket, and the names that both sides know.

Who starts a process sets these variables; the hooks in it read them.  Nothing here knows what the
facts are about.
"""

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

SOCKET_ENV: Final = "DSJOB_HOOK_SOCKET"
SUPERVISOR_ENV: Final = "DSJOB_SUPERVISOR_PID"
PROGRAM_ENV: Final = "DSJOB_DRIVER_PROGRAM"
"""Set for the process of a driver program, which is no rank."""
PAGE_FILE: Final = "heartbeat"
ORDERS_FILE: Final = "orders"
STACKS_FILE: Final = "stacks"
"""Beside the socket: the heartbeat page, the order page, and where stacks are dumped (see `page`,
`orderpage`, `stackdump`)."""
DESCENDANTS_ENV: Final = "DSJOB_HOOK_DESCENDANTS"
"""Set for a command, which may start Python itself: hooks go into all that it starts."""

ANSWERED: Final = frozenset({"saved", "save_end", "trainer"})
"""Kinds of facts that wait for an answer: a save until its files are held fast, the trainer of a
driver program until the job is ready for it."""

Report = Callable[[Mapping[str, Any]], None]


class Wire:
    """Facts to the supervisor as JSON lines over a unix socket; the first fact is `hook`.

    It connects when there is something to say.  What is ANSWERED waits for the supervisor's word,
    however long that takes: a supervisor that dies ends the wait.  Everything else is sent and
    forgotten.  Once broken it stays broken, with one warning, and is closed, which the supervisor
    sees.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._answers: BinaryIO | None = None
        self._is_broken = False

    def connect(self) -> None:
        """Say that the hooks are in place."""
        with self._lock:
            self._try(self._open)

    def report(self, fact: Mapping[str, Any]) -> None:
        """Send a fact."""
        with self._lock:
            self._try(lambda: self._send(fact))

    def await_word(self, kind: str) -> None:
        """Send a fact of this kind and wait for the answer."""
        self.report({"kind": kind})

    def close(self) -> None:
        """Say nothing more."""
        with self._lock:
            self._break()

    def _break(self) -> None:
        self._is_broken = True
        if self._answers is not None:
            self._answers.close()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # never connected, or the other side was first
                self._socket.shutdown(socket.SHUT_RDWR)  # a forked child may hold it open, too
            self._socket.close()

    def _try(self, act: Callable[[], object]) -> None:
        if self._is_broken:
            return
        try:
            act()
        except (OSError, TypeError, ValueError) as error:
            sys.stderr.write(f"deepspeed_trainer: progress unavailable: {error}\n")
            self._break()

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(self._path)
            self._answers = self._socket.makefile("rb")
            self._socket.sendall(b'{"kind": "hook"}\n')
        return self._socket

    def _send(self, fact: Mapping[str, Any]) -> None:
        self._open().sendall(json.dumps(fact).encode() + b"\n")
        if fact["kind"] in ANSWERED and not (self._answers and self._answers.readline()):
            raise ConnectionError("the supervisor is gone")
