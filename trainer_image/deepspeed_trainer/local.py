"""One attempt on this machine: a private Ray with a worker a node, and the driver. Linux.

`dsjob run --local` starts it with the interpreter that has Ray.  It takes an Order as one line of
JSON, answers with facts as lines of JSON, and ends when its input does: so whatever ends `dsjob`
ends this, and whatever is left of Ray and of the ranks dies here, because orphans become children
of this process.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, Self

from deepspeed_trainer.contract import (
    CONTRACT_ENV,
    DRIVER_COMMAND,
    POD_NAME_ENV,
    POD_UID_ENV,
    RANK_RESOURCE,
    RunContract,
)

START_S: Final = 120.0
STOP_MARGIN_S: Final = 5.0
TICK_S: Final = 0.1
STORE_BYTES: Final = 80 * 1024 * 1024
"""Ray's smallest object store; ranks exchange tensors by gloo or NCCL."""
LAST_LINES: Final = 20
UP: Final = "Ray runtime started."
"""What `ray start` says when a node has joined; covered by tests/trainer."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class StartFailed(Exception):
    """Ray did not start; the message has its last words."""


class Stop(Exception):
    """Whoever started us has gone, or asks us to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run; `folder` is this process's own and is deleted at the end."""

    contract: RunContract
    folder: Path
    driver_log: Path
    token: str
    devices: tuple[str, ...]
    """Ids of the devices to use, those of the first node first; none on CPU."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the line that `dsjob` wrote; it is of our own release."""
        plain = json.loads(text)
        return cls(
            contract=RunContract.from_json(plain["contract"]),
            folder=Path(plain["folder"]),
            driver_log=Path(plain["driverLog"]),
            token=plain["token"],
            devices=tuple(plain["devices"]),
        )


def main() -> int:
    """Run one attempt and leave nothing behind; exit code 0 whatever became of it."""
    order = Order.from_json(sys.stdin.readline())
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stop)
    run = LocalRay(order)
    try:
        with contextlib.suppress(Stop):
            _perform(run, order)
    finally:
        run.stop(order.contract.stop_grace_s + STOP_MARGIN_S)
        shutil.rmtree(order.folder, ignore_errors=True)
    return 0


def _perform(run: "LocalRay", order: Order) -> None:
    try:
        run.start()
    except StartFailed as error:
        _tell(event="failed", message=str(error))
        return
    driver = run.start_driver(order.contract)
    _tell(event="driver", progressPort=run.progress_port)
    while driver.poll() is None:
        _pause()
    _tell(event="ended", exitCode=driver.returncode)
    # The board is asked for the last time; then our input ends.
    while True:
        _pause()


class LocalRay:
    """A head, a raylet for each node of the job, and the driver: children of this process."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._gcs, self._client, self.progress_port = _free_ports(3)
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._driver: subprocess.Popen[bytes] | None = None
        self._env = self._build_env()

    def start(self) -> None:
        """Start all nodes. Raises: StartFailed, Stop."""
        head = ["--head", "--num-cpus=0", "--num-gpus=0", f"--port={self._gcs}"]
        head += [f"--ray-client-server-port={self._client}", "--include-dashboard=false"]
        self._start_node("head", [*head, f"--temp-dir={self._order.folder}"], {})
        contract = self._order.contract
        cpus = int(contract.cpus_per_rank * contract.ranks_per_node)
        worker = [f"--address=127.0.0.1:{self._gcs}", f"--num-cpus={cpus}"]
        worker.append(f'--resources={{"{RANK_RESOURCE}": {contract.ranks_per_node}}}')
        # One log monitor is enough: all nodes share the head's session folder.
        worker.append("--include-log-monitor=false")
        for node in range(contract.nodes):
            # One after the other: nodes of one machine choose their sockets' names in a race.
            devices = self._devices_of(node)
            env = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
            self._start_node(f"worker-{node}", [*worker, f"--num-gpus={len(devices)}"], env)

    def start_driver(self, contract: RunContract) -> subprocess.Popen[bytes]:
        """Start the driver as the Ray job would."""
        self._order.driver_log.parent.mkdir(parents=True, exist_ok=True)
        env = {**self._env, **_pod("head"), CONTRACT_ENV: contract.to_json()}
        command = [sys.executable, *DRIVER_COMMAND.split()[1:]]
        with self._order.driver_log.open("ab") as log:
            self._driver = _start(command, env, log)
        return self._driver

    def stop(self, grace_s: float) -> None:
        """Let the driver stop its ranks in order, then end all that is left."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        driver = self._driver
        if driver is not None and driver.poll() is None:
            driver.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(grace_s)
        end_descendants()

    def _start_node(self, name: str, words: Sequence[str], env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
        command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={STORE_BYTES}"]
        command += ["--disable-usage-stats"]
        path = self._order.folder / f"{name}.log"
        with path.open("wb") as log:
            process = _start(command, {**self._env, **_pod(name), **env}, log)
        self._nodes.append(process)
        deadline = time.monotonic() + START_S
        while UP not in path.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                said = path.read_text(errors="replace").splitlines()[-LAST_LINES:]
                raise StartFailed(
                    "\n".join([f"Ray's {name} did not start on this machine:", *said])
                )
            _pause()

    def _devices_of(self, node: int) -> tuple[str, ...]:
        count = self._order.contract.ranks_per_node
        return self._order.devices[node * count : (node + 1) * count]

    def _build_env(self) -> dict[str, str]:
        """Return the environment of all processes: the caller's, with a Ray of our own."""
        given = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        scratch = self._order.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        return {
            # What is left of killed supervisors goes with our own folder.
            "TMPDIR": str(scratch),
            # Ranks meet on the loopback device, whatever this machine is connected to.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            **given,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._order.token,
            "RAY_ADDRESS": f"127.0.0.1:{self._gcs}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "DSJOB_PROGRESS_PORT": str(self.progress_port),
        }


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends."""
    _call_prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """Kill every process below this one until none is left, and reap them."""
    while True:
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(TICK_S / 10)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            # pid (name) state parent …; a name may hold anything, also brackets.
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _start(command: Sequence[str], env: Mapping[str, str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Should this process be killed, its children still end in order.
        preexec_fn=_die_with_parent,  # noqa: PLW1509  no threads here
    )


def _die_with_parent() -> None:
    _call_prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _call_prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _pod(name: str) -> dict[str, str]:
    return {POD_UID_ENV: f"local-{name}", POD_NAME_ENV: name}


def _pause() -> None:
    """Wait a moment. Raises: Stop, when our input has ended."""
    readable, _, _ = select.select([sys.stdin], [], [], TICK_S)
    if readable:
        raise Stop


def _raise_stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Stop


def _tell(**fact: Any) -> None:
    # Nobody may be listening any more; then our input has ended too.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(fact), flush=True)  # noqa: T201  the answer to `dsjob`


def _free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    sys.exit(main())
