"""Below a command every Python ends with the process that started it, and not with its thread."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV, SUPERVISOR_ENV
from deepspeed_trainer.rank.rankenv import RANK_SITE
from tests.support.eventually import eventually

PARENT = """
import os, subprocess, sys, threading, time
def start():
    global helper
    pipe = subprocess.PIPE
    helper = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=pipe, stdout=pipe)
    assert helper.stdout.readline() == b"ready\\n"
known = set(os.listdir("/proc/self/task"))
thread = threading.Thread(target=start)
thread.start()
thread.join()
while set(os.listdir("/proc/self/task")) - known:
    time.sleep(0.01)
try:
    helper.stdin.write(b"alive\\n")
    helper.stdin.flush()
except BrokenPipeError:
    pass
answer = helper.stdout.readline().decode().strip() or "gone"
print(helper.pid, answer, flush=True)
time.sleep(1e6)
"""
HELPER = """
import sys, time
print("ready", flush=True)
print(input(), flush=True)
time.sleep(1e6)
"""


@contextmanager
def a_parent() -> Iterator[tuple["subprocess.Popen[str]", str, Path]]:
    """A process, what the Python below it answered once its thread was gone, and that Python."""
    path = os.pathsep.join([RANK_SITE, *filter(None, sys.path)])
    env = {**os.environ, DESCENDANTS_ENV: "1", "PYTHONPATH": path}
    words = [sys.executable, "-c", PARENT, HELPER]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, answer = parent.stdout.readline().split()
        try:
            yield parent, answer, Path("/proc") / pid / "stat"
        finally:
            parent.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def has_ended(stat: Path) -> bool:
    """Whether a process is gone, or only waits for whoever takes note of its end."""
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_a_thread_started_outlives_the_thread() -> None:
    with a_parent() as (_, answer, _):
        assert answer == "alive"


def test_what_a_program_started_dies_with_it() -> None:
    with a_parent() as (parent, answer, stat):
        assert (answer, has_ended(stat)) == ("alive", False)
        parent.kill()
        eventually(lambda: has_ended(stat), "it has ended")


def test_a_rank_dies_with_its_supervisor() -> None:
    """Its supervisor is its parent, and nothing else below it is tied."""
    supervisor = f"""
import os, subprocess, sys, time
os.environ["{SUPERVISOR_ENV}"] = str(os.getpid())
rank = subprocess.Popen([sys.executable, "-c", "print('up', flush=True)\\nwhile True: pass"],
                        stdout=subprocess.PIPE)
rank.stdout.readline()
print(rank.pid, flush=True)
time.sleep(1e6)
"""
    env = {k: v for k, v in os.environ.items() if k != DESCENDANTS_ENV}
    env["PYTHONPATH"] = os.pathsep.join([RANK_SITE, *filter(None, sys.path)])
    words = [sys.executable, "-c", supervisor]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = parent.stdout.readline().strip()
        parent.kill()
        eventually(lambda: has_ended(Path("/proc") / pid / "stat"), "the rank has ended")
