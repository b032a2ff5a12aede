import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import processes
from devcluster.errors import Unhealthy
from devcluster.processes import Home
from devcluster.steps import Shell


@pytest.fixture
def home(tmp_path: Path):
    home = Home(tmp_path)
    yield home
    processes.end(processes.owned_by(tmp_path))


def wait_for(home: Home, component: str, *, ready: bool, timeout_s: float) -> None:
    shell = Shell(home.folder / "step.log")
    processes.await_ready(home, [component], lambda: ready, shell=shell, timeout_s=timeout_s)


def test_a_component_that_ends_is_told_with_its_last_words(home: Home) -> None:
    processes.start(home, "server", ["sh", "-c", "sleep 0.2; echo no such disk; exit 1"])
    with pytest.raises(Unhealthy, match=r"(?s)server ended.*no such disk"):
        wait_for(home, "server", ready=False, timeout_s=60)


def test_a_component_that_is_never_ready_is_told_with_its_last_words(home: Home) -> None:
    processes.start(home, "server", ["sh", "-c", "echo looking for the disk; sleep 600"])
    with pytest.raises(Unhealthy, match="server not ready after"):
        wait_for(home, "server", ready=False, timeout_s=0.1)


def test_a_process_outlives_the_program_that_started_it(home: Home) -> None:
    code = f"""
from pathlib import Path
from devcluster import processes
processes.start(processes.Home(Path({str(home.folder)!r})), "server", ["sleep", "600"])
"""
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert processes.runs(home, "server")


def test_children_are_found_by_ownership_after_their_parent_was_killed(home: Home) -> None:
    script = "sleep 600 & echo $! > child; wait"
    parent = processes.start(home, "server", ["sh", "-c", f"cd {home.folder}; {script}"])
    file = home.folder / "child"
    shell = Shell(home.folder / "step.log")
    processes.await_ready(
        home, ["server"], lambda: file.exists() and file.read_text().endswith("\n"),
        shell=shell, timeout_s=60,
    )  # fmt: skip
    processes.end([parent])
    found = {process.pid for process in processes.owned_by(home.folder)}
    assert int(file.read_text()) in found
    assert parent.pid not in found


def test_a_nodes_programs_are_its_clusters_and_no_other_nodes(home: Home) -> None:
    owner = home.folder / "node1"
    process = processes.start(home, "kubelet", ["sleep", "600"], owner=owner)
    assert list(processes.owned_by(home.folder)) == [process]
    assert list(processes.owned_by(owner)) == [process]
    assert list(processes.owned_by(home.folder / "node")) == []


def test_another_process_with_a_recycled_id_is_left_alone(home: Home) -> None:
    process = processes.start(home, "server", ["sleep", "600"])
    older = replace(process, start_ticks=process.start_ticks - 1)
    rebooted = replace(process, boot_id="another")
    assert not processes.is_alive(older)
    processes.end([older, rebooted])
    assert processes.is_alive(process)


def test_a_polite_process_ends_by_itself_and_a_deaf_one_is_killed(home: Home) -> None:
    ignored = (
        f"import signal, time; signal.signal({signal.SIGTERM:d}, signal.SIG_IGN); time.sleep(600)"
    )
    deaf = processes.start(home, "deaf", [sys.executable, "-c", ignored])
    polite = processes.start(home, "polite", ["sleep", "600"])
    processes.end([deaf, polite], grace_s=0.5)
    assert not processes.is_alive(deaf)
    assert not processes.is_alive(polite)


def test_a_process_that_was_never_started_does_not_run(home: Home) -> None:
    assert not processes.runs(home, "server")
    assert processes.recorded(home, "server") is None
