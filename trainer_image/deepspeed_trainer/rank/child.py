"""A process that runs the user's program: the script of one rank, or a whole driver program.

Output goes, line by line, to Ray's log and to the process' file on the storage, and the last lines
are kept.  Stopping is SIGTERM to the whole session, then SIGKILL.  Why it ended is for others to
judge.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from deepspeed_trainer.contract import RESTART_ENV

KEPT_LINES: Final = 60
MAX_LINE_BYTES: Final = 8192
DRAIN_S: Final = 2.0
"""How long output is still read after the end: a grandchild may hold the pipe open."""


class ChildProcess:
    """A running program; start and wait for it from one thread that stays alive.

    Raises:
        OSError: the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        prefix: str,
        log_path: Path | None,
        *,
        cores: Collection[int] = (),
    ) -> None:
        """Start it; a log that has lines of an earlier start gets one that says which this is."""
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)
        self.was_stopped = False
        self._prefix = prefix
        self._kill_at: float | None = None
        self._process = subprocess.Popen(
            list(command),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if cores:
            os.sched_setaffinity(self._process.pid, cores)
        restart = int(env.get(RESTART_ENV, "0"))
        self._pump = threading.Thread(
            target=self._pass_output_on, args=(log_path, restart), daemon=True
        )
        self._pump.start()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code (negative for a signal), or None when it still runs."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        # What the program left behind would keep memory of the device.
        self._signal(signal.SIGKILL)
        self._pump.join(DRAIN_S)
        return code

    def stop(self, grace_s: float) -> None:
        """Ask the program to end; called again after the grace it kills. Never waits."""
        now = time.monotonic()
        if self._kill_at is None:
            self.was_stopped = True
            self._kill_at = now + grace_s
            self._signal(signal.SIGTERM)
        elif now >= self._kill_at:
            self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """End the program at once."""
        self.was_stopped = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody is left in the session
            os.killpg(self._process.pid, number)

    def _pass_output_on(self, log_path: Path | None, restart: int) -> None:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101  stdout=PIPE above
        file = _open_log(log_path)
        if restart:
            file = _write_line(file, f"[trainer] restart {restart} begins")
        is_told = False
        with stream:
            for raw in iter(lambda: stream.readline(MAX_LINE_BYTES), b""):
                line = raw.decode(errors="replace").rstrip("\n")
                self.tail.append(line.rsplit("\r", 1)[-1])
                error = _say(f"{self._prefix}{line}\n")
                if error is not None and not is_told:
                    is_told = True
                    told = "not all of this is in the supervisor's own output"
                    file = _write_line(file, f"[trainer] {told}: {error}")
                file = _write_line(file, line)
        if file is not None:
            file.close()


def _say(text: str) -> Exception | None:
    """Pass output on; why that fails is returned, because it is no reason to end a training."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        return error
    return None


def _open_log(path: Path | None) -> IO[str] | None:
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", buffering=1, errors="replace")
    except OSError as error:
        sys.stderr.write(f"no log file on the storage: {error}\n")
        return None


def _write_line(file: IO[str] | None, line: str) -> IO[str] | None:
    """Write to the log file; a full or lost storage ends the file, not the training."""
    if file is None:
        return None
    try:
        file.write(f"{line}\n")
    except OSError as error:
        sys.stderr.write(f"the log file on the storage ends here: {error}\n")
        return None
    return file
