"""The processes of a local run, from outside: start them, ask how far they are, end them.

Ray, torch and DeepSpeed are another interpreter's; here is only its parent.  When this process
ends, in whatever way, its line to `deepspeed_trainer.local` ends, and with it all the rest.
"""

import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from deepspeed_operator.cli.ends import Unavailable
from deepspeed_operator.cli.local.plan import Plan
from deepspeed_operator.cli.local.state import Seen, Stage, derive_job
from deepspeed_operator.cli.picture import TAIL_MARK, Job, printable
from deepspeed_trainer import __file__ as trainer_file
from deepspeed_trainer.contract import MAX_PROGRESS_BYTES, PROGRESS_PATH, ContractError, Progress
from deepspeed_trainer.local import adopt_orphans, end_descendants

FOLDERS: Final = "/tmp"  # noqa: S108  sockets of Ray lie in it, and their paths must be short
ANSWER_S: Final = 5.0
STOP_MARGIN_S: Final = 20.0
"""Beyond the ranks' own grace: Ray is killed, folders are deleted."""
LAST_LINES: Final = 20
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


class Session:
    """A local run; a context manager that leaves no process and no folder behind."""

    def __init__(
        self,
        plan: Plan,
        python: str,
        workdir: Path,
        devices: Sequence[str],
        now: Callable[[], datetime],
    ) -> None:
        self._plan = plan
        self._now = now
        self._command = [python, "-u", "-m", "deepspeed_trainer.local"]
        self._workdir = workdir
        self._devices = list(devices)
        self._token = secrets.token_hex(24)
        self._events: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._seen = Seen(Stage.RAY)
        self._port = 0
        # No proxy of this machine's knows its loopback device.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def driver_log(self) -> Path:
        """What the driver and Ray wrote, the ranks' lines among it."""
        return self._plan.folder / "driver.log"

    def __enter__(self) -> Self:
        """Start Ray's keeper."""
        adopt_orphans()
        self._folder = folder = Path(tempfile.mkdtemp(prefix="dsjob-local-", dir=FOLDERS))
        self._stderr = tempfile.TemporaryFile()
        self._keeper = subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": _build_path(folder)},
            cwd=self._workdir,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            # Ctrl-C is ours; we tell the keeper.
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self._send_order(folder)
        return self

    def __exit__(self, *_: object) -> None:
        """End the keeper's input, which ends all the rest, and wait for it.

        What a keeper that was killed has left is ended here: this process is next in line.
        """
        grace_s = self._plan.contract.stop_grace_s + STOP_MARGIN_S
        assert self._keeper.stdin is not None  # noqa: S101  a pipe, see above
        self._keeper.stdin.close()
        try:
            self._keeper.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
        finally:
            if self._keeper.wait() != 0:
                end_descendants()
            self._stderr.close()
            # The keeper deletes it too, should this process not live to do it.
            shutil.rmtree(self._folder, ignore_errors=True)

    def look(self) -> Job:
        """Return the job as it is now."""
        self._take_events()
        seen = self._seen
        if seen.stage is not Stage.RAY and seen.trouble is None:
            progress = self._ask_progress() or seen.progress
            self._seen = Seen(seen.stage, progress, seen.exit_code, seen.trouble)
        return derive_job(self._plan, self._seen, self._now())

    def last_words(self) -> list[str]:
        """Return the last lines of every rank, or of the driver where no rank wrote any."""
        logs = sorted((self._plan.folder / "logs").glob("rank-*.log"))
        found = [line for path in logs or [self.driver_log] for line in _quote_end(path)]
        return [*found, f"everything that was written: {self._plan.folder}"]

    def _send_order(self, folder: Path) -> None:
        order = {
            "contract": self._plan.contract.to_json(),
            "folder": str(folder),
            "driverLog": str(self.driver_log),
            "token": self._token,
            "devices": self._devices,
        }
        assert self._keeper.stdin is not None  # noqa: S101  a pipe, see __enter__
        try:
            self._keeper.stdin.write(json.dumps(order) + "\n")
            self._keeper.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already; _listen tells with what words

    def _listen(self) -> None:
        assert self._keeper.stdout is not None  # noqa: S101  a pipe, see __enter__
        for line in self._keeper.stdout:
            self._events.put(json.loads(line))
        self._events.put({"event": "gone"})

    def _take_events(self) -> None:
        while not self._events.empty():
            event, seen = self._events.get(), self._seen
            match event["event"]:
                case "driver":
                    self._port = int(str(event["progressPort"]))
                    self._seen = Seen(Stage.DRIVER)
                case "ended":
                    code = int(str(event["exitCode"]))
                    self._seen = Seen(Stage.OVER, seen.progress, code)
                case "failed":
                    self._seen = Seen(Stage.OVER, trouble=str(event["message"]))
                case _:
                    self._note_gone()
        # A child of a killed keeper may hold its end of the pipe.
        if self._keeper.poll():
            self._note_gone()

    def _note_gone(self) -> None:
        """The keeper has ended: after the end of the run it may, before that it was killed."""
        if self._seen.stage is not Stage.OVER:
            trouble = self._read_trouble()
            self._seen = Seen(Stage.OVER, self._seen.progress, trouble=trouble)

    def _read_trouble(self) -> str:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        return "\n".join(["the keeper of the local Ray has ended:", *said])

    def _ask_progress(self) -> Progress | None:
        """Ask the board; None while it does not answer."""
        path = PROGRESS_PATH.format(submission_id=self._plan.contract.submission_id)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            headers={"Authorization": f"Bearer {self._token}"},
        )
        try:
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                return Progress.from_json(answer.read(MAX_PROGRESS_BYTES))
        except ContractError as error:
            raise Unavailable(f"the trainer's progress cannot be read: {error}") from error
        except OSError:
            return None


def _build_path(folder: Path) -> str:
    """Return a PYTHONPATH with our trainer and nothing else of this interpreter's packages."""
    site = folder / "site"
    site.mkdir()
    (site / "deepspeed_trainer").symlink_to(Path(trainer_file).parent)
    given = os.environ.get("PYTHONPATH")
    return f"{site}{os.pathsep}{given}" if given else str(site)


def _quote_end(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    last = [_COLOUR.sub("", line) for line in lines[-LAST_LINES:]]
    return [f"  {path.name}, its last lines:", *(f"{TAIL_MARK}{printable(line)}" for line in last)]
