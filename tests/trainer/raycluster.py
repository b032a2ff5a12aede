"""A Ray cluster as KubeRay would start it, on this machine: one head and a raylet for each pod.

Everything it starts is a child of this process in a session of its own, and only that is stopped.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "programs"
START_S = 120.0


class RayCluster:
    """Context manager; `env` is that of a process in the head's pod."""

    def __init__(
        self,
        pods: tuple[str, ...],
        ranks_per_pod: int = 1,
        env: Mapping[str, str] | None = None,
        code: Path = PROGRAMS,
        lib: str = "",
    ) -> None:
        self.code = code
        """The working directory of programs, as where a job's code is mounted."""
        self.lib = lib
        """A folder more to import from."""
        self.pods = pods
        self._ranks_per_pod = ranks_per_pod
        self._folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
        self._processes: list[subprocess.Popen[bytes]] = []
        ports = free_ports(4)
        self._gcs, self.dashboard, self.progress, self._client = ports
        self.token = secrets.token_hex(24)
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(
                str(folder)
                for folder in (ROOT / "trainer_image", code, lib, os.environ.get("PYTHONPATH"))
                if folder
            ),
            "HOME": str(self._folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ADDRESS": f"127.0.0.1:{self._gcs}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
            "DSJOB_PROGRESS_PORT": str(self.progress),
            "POD_UID": "head",
            "POD_NAME": "head",
            **(env or {}),
        }

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def head_pid(self) -> int:
        """The process that started the head."""
        return self._processes[0].pid

    def stop(self) -> None:
        """Stop what was started, workers first."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def tell(self, pod: str, grace_s: int = 30) -> None:
        """Run the hook of a pod that is told to go, as its kubelet does: at most for the grace."""
        command = [sys.executable, "-m", "deepspeed_trainer.leaving"]
        env = {**self._env_of(pod), "DSJOB_LEAVE_GRACE_S": str(grace_s)}
        subprocess.run(command, env=env, timeout=grace_s, check=True)

    def keep_pods(self) -> None:
        """Take back that pods were told to go."""
        for told in self._folder.glob("leave/*/told"):
            told.unlink()

    def _env_of(self, pod: str) -> dict[str, str]:
        leave = {"DSJOB_LEAVE_DIR": str(self._folder / "leave" / pod)}
        return {**self.env, "POD_UID": pod, "POD_NAME": pod, **leave}

    def _start_all(self) -> None:
        head = ["--head", "--num-cpus=0", f"--port={self._gcs}", "--include-log-monitor=true"]
        head += [f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={self._client}"]
        self._start("head", [*head, f"--temp-dir={self._folder}"])
        wait_until(self._head_answers, "the Ray head does not answer")
        # One log monitor is enough: all raylets share the head's session folder here.
        worker = [f"--address=127.0.0.1:{self._gcs}", "--include-log-monitor=false"]
        worker += [f"--num-cpus={self._ranks_per_pod}"]
        worker += [f'--resources={{"dsjob_rank": {self._ranks_per_pod}}}']
        for count, pod in enumerate(self.pods, start=2):
            # One after the other: raylets of one machine choose their sockets' names in a race.
            self._start(pod, worker)
            wait_until(lambda wanted=count: self._alive() == wanted, f"{pod} does not join")

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask the head's dashboard, as the operator does."""
        return self._ask(self.dashboard, path, self.token, body)

    def progress_of(self, submission_id: str, token: str | None = None) -> Any:
        """Ask the progress endpoint."""
        path = f"/v1/progress/{submission_id}"
        return self._ask(self.progress, path, token or self.token)

    def _ask(self, port: int, path: str, token: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        url = f"http://127.0.0.1:{port}{path}"
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return json.load(answer)

    def _start(self, pod: str, args: list[str]) -> None:
        env = self._env_of(pod)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *args]
        command += ["--disable-usage-stats", "--object-store-memory=80000000"]
        with (self._folder / f"{pod}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=env, cwd=self.code, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)

    def _head_answers(self) -> bool:
        try:
            return bool(self.ask("/api/version"))
        except (OSError, ValueError):
            return False

    def _alive(self) -> int:
        try:
            nodes = self.ask("/nodes?view=summary")["data"]["summary"]
        except (OSError, ValueError):
            return 0  # a dashboard that just began may hang up
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def wait_until(is_true: Any, otherwise: str, timeout_s: float = START_S) -> None:
    """Poll until a fact holds; fail with a sentence when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError(f"{otherwise} within {timeout_s:.0f} s")
        time.sleep(0.1)
