"""A rank's program is a process like any other: its main thread, its signals, its exit code."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from deepspeed_trainer.rank.child import ChildProcess
from tests.support.eventually import eventually

HANDLES = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved what there was"))
pathlib.Path(sys.argv[1]).touch()
signal.pause()
"""


def start(tmp_path: Path, text: str) -> ChildProcess:
    program = tmp_path / "program.py"
    program.write_text(text)
    command = [sys.executable, str(program), str(tmp_path / "ready")]
    return ChildProcess(command, os.environ, "", None)


def test_a_program_handles_its_signals_itself(tmp_path: Path) -> None:
    child = start(tmp_path, HANDLES)
    eventually((tmp_path / "ready").exists, "the program has its handler")
    child.stop(60.0)
    assert eventually(lambda: child.wait(1.0) == 1, "it ends by itself")
    assert list(child.tail) == ["saved what there was"]


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_may_end_by_sys_exit(tmp_path: Path, code: int) -> None:
    child = start(tmp_path, f"import sys\nsys.exit({code})\n")
    assert child.wait(60.0) == code


def test_what_ignores_the_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    deaf = HANDLES.replace('lambda *_: sys.exit("saved what there was")', "signal.SIG_IGN")
    child = start(tmp_path, deaf)
    eventually((tmp_path / "ready").exists, "the program ignores the signal")
    child.stop(0.0)
    assert child.wait(0.2) is None
    child.stop(0.0)
    assert child.wait(60.0) == -9


class Broken(io.StringIO):
    """The output of a supervisor whose disk is full, or that is closed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    @override
    def write(self, _text: str) -> int:
        raise self._error

    @override
    def flush(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), ValueError("I/O operation on closed file")]
)
def test_a_program_outlives_its_supervisors_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(error))
    lines = [f"line {number}" for number in range(20_000)]
    program, log = "for n in range(20_000): print('line', n, flush=True)", tmp_path / "rank.log"
    child = ChildProcess([sys.executable, "-c", program], os.environ, "", log)
    assert child.wait(60.0) == 0
    told, *rest = log.read_text().splitlines()
    assert told == f"[trainer] not all of this is in the supervisor's own output: {error}"
    assert rest == lines
    assert list(child.tail) == lines[-60:]
