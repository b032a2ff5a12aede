"""Start the cluster's programs so that they outlive us, and end exactly those again.

Each program is recorded with its process id, start time and boot, so that a recycled id is never
mistaken for ours. Each carries the environment variable `DEVCLUSTER_OWNER` with the folder of its
cluster or node; its children inherit it (containerd's shims among them), so what a crash left
behind is found by ownership, not by name. Containers do not carry it: they are found by control
group.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster.errors import Unhealthy
from devcluster.paths import written_whole
from devcluster.steps import Shell, tail

OWNER = "DEVCLUSTER_OWNER"
PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be confused with a later one of the same id."""

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Home:
    """Where a cluster's programs keep their records and logs."""

    folder: Path

    def record(self, component: str) -> Path:
        """The file that says which process the component is."""
        return self.folder / "pids" / component

    def log(self, component: str) -> Path:
        """The file with what the component has printed."""
        return self.folder / "logs" / f"{component}.log"

    def components(self) -> list[str]:
        """The names of all programs started so far."""
        found = (self.folder / "pids").glob("*")
        return sorted(path.name for path in found if not path.name.startswith("."))


def boot_id() -> str:
    """The kernel's name for the time since the last boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Process | None:
    """The live process with this id; None when it has ended (a zombie has ended)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[19]), boot_id())


def is_alive(process: Process) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def start(
    home: Home,
    component: str,
    command: Sequence[str | Path],
    *,
    owner: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a program in its own session, with its output in its log file, and record it.

    `owner` is the folder below the home that it belongs to; `environment` is added to ours.
    """
    words = [str(word) for word in command]
    log, record = home.log(component), home.record(component)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        pid = os.posix_spawnp(
            words[0],
            words,
            {**os.environ, **(environment or {}), OWNER: str(owner or home.folder)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
            setsid=True,
        )
    process = identify(pid)
    if process is None:
        raise Unhealthy(f"{component} ended at once; its log:\n{tail(log)}")
    with written_whole(record) as beside:
        beside.write_text(json.dumps(asdict(process)))
    return process


def recorded(home: Home, component: str) -> Process | None:
    """What was started under this name, whether it still runs or not."""
    try:
        return Process(**json.loads(home.record(component).read_text()))
    except FileNotFoundError:
        return None


def runs(home: Home, component: str) -> bool:
    """Whether the program started under this name still runs."""
    process = recorded(home, component)
    return process is not None and is_alive(process)


def await_ready(
    home: Home,
    components: Iterable[str],
    probe: Callable[[], bool],
    *,
    shell: Shell,
    timeout_s: float,
) -> None:
    """Wait until `probe` says yes.

    Raises: Unhealthy, with the last log lines, when one of the components ends or time is up.
    """
    names = list(components)
    end = time.monotonic() + timeout_s
    while not probe():
        shell.check()
        for name in names:
            if not runs(home, name):
                raise Unhealthy(f"{name} ended; its last lines:\n{tail(home.log(name))}")
        if time.monotonic() > end:
            logs = "\n".join(f"  {name}:\n{tail(home.log(name), 12)}" for name in names)
            raise Unhealthy(f"{', '.join(names)} not ready after {timeout_s:.0f} s:\n{logs}")
        time.sleep(PAUSE_S)


def owned_by(folder: Path) -> Iterator[Process]:
    """Every live process of this folder or one below it; never the caller itself."""
    mark = f"{OWNER}={folder}/".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if any((variable + b"/").startswith(mark) for variable in environment.split(b"\0")):
            process = identify(int(entry.name))
            if process is not None:
                yield process


def end(processes: Iterable[Process], *, grace_s: float = 0.0) -> None:
    """End processes: a polite signal first when there is grace, SIGKILL for those that stay."""
    watched = [(process, fd) for process in processes if (fd := _open(process)) is not None]
    try:
        if grace_s > 0:
            _signal_all(watched, signal.SIGTERM)
            _await_all(watched, grace_s)
        _signal_all(watched, signal.SIGKILL)
        _await_all(watched, 5.0)
    finally:
        for process, fd in watched:
            os.close(fd)
            _reap(process.pid)


def _open(process: Process) -> int | None:
    """A handle on the process, taken before its identity is checked, so it cannot be recycled."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_alive(process):
        return fd
    os.close(fd)
    _reap(process.pid)
    return None


def _signal_all(watched: list[tuple[Process, int]], number: signal.Signals) -> None:
    for _, fd in watched:
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            continue


def _await_all(watched: list[tuple[Process, int]], seconds: float) -> None:
    end_at = time.monotonic() + seconds
    left = {fd for _, fd in watched}
    while left and (wait := end_at - time.monotonic()) > 0:
        left -= set(select.select(list(left), [], [], wait)[0])


def _reap(pid: int) -> None:
    """Collect the exit of a child of ours; others are their parents' to collect."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
