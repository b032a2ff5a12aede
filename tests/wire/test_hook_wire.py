"""Between a rank's hooks and its supervisor: answers take their time, and a broken line is told."""

import faulthandler
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.hooks.wire import Wire
from deepspeed_trainer.rank import ear
from deepspeed_trainer.rank.ear import HookEar
from deepspeed_trainer.rank.frames import read_where
from tests.support.eventually import eventually

SPEAKS = """
import sys
from deepspeed_trainer.hooks.wire import Wire
wire = Wire(sys.argv[1])
wire.report({"kind": "step"})
"""
LOSES_ITS_LINE = "import os, sys\nos.closerange(3, 256)\nsys.stdin.read()\n"


class Supervisor:
    """What a supervisor heard; a save is held when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hook"
        self.facts: list[dict[str, Any]] = []
        self.is_held = threading.Event()
        self.ear = HookEar(self.path, self._put)

    def _put(self, fact: Any) -> None:
        self.facts.append(fact)
        if fact["kind"] == "saved":
            self.is_held.wait()

    @property
    def kinds(self) -> list[str]:
        return [fact["kind"] for fact in self.facts]

    @property
    def failures(self) -> list[str]:
        return [fact["failure"] for fact in self.facts if "failure" in fact]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    running = Supervisor(tmp_path)
    yield running
    running.is_held.set()
    running.ear.finish()


def start(supervisor: Supervisor, program: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", program, str(supervisor.path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
    )


def test_a_save_waits_for_its_answer_however_long_that_takes(supervisor: Supervisor) -> None:
    wire = Wire(str(supervisor.path))
    saving = threading.Thread(target=wire.report, args=({"kind": "saved"},))
    saving.start()
    eventually(lambda: "saved" in supervisor.kinds, "the supervisor holds the save")
    assert wire._socket is not None
    assert wire._socket.gettimeout() is None
    supervisor.is_held.set()
    saving.join()
    wire.report({"kind": "step"})
    eventually(lambda: "step" in supervisor.kinds, "the line is whole")
    wire.close()


def test_a_rank_that_waits_for_its_answer_is_seen_to_do_so(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    wire = Wire(str(supervisor.path))
    saving = threading.Thread(target=wire.report, args=({"kind": "saved"},))
    saving.start()
    eventually(lambda: "saved" in supervisor.kinds, "the supervisor holds the save")

    def asks_supervisor() -> bool:
        with (tmp_path / "stacks").open("w+") as stacks:
            faulthandler.dump_traceback(stacks)
            stacks.seek(0)
            where = read_where(stacks.read(), saving.ident or 0)
        return where is not None and where.asks_supervisor

    eventually(asks_supervisor, "its stack says so")
    supervisor.is_held.set()
    saving.join()
    wire.close()


def test_a_line_that_breaks_is_told_once_on_both_sides(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ear, "END_WITHIN_S", 0.1)
    wire = Wire(str(supervisor.path))
    wire.connect()
    for _ in range(2):
        wire.report({"kind": "step", "loss": float})
    assert capsys.readouterr().err.count("progress unavailable") == 1
    eventually(lambda: supervisor.failures, "the board is told")
    assert "while the program goes on" in supervisor.failures[0]


def test_a_program_that_loses_its_line_without_a_word_is_told_of(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ear, "END_WITHIN_S", 0.1)
    with start(supervisor, SPEAKS + LOSES_ITS_LINE) as program:
        eventually(lambda: supervisor.failures, "the board is told")
        program.communicate()


def test_a_program_that_ends_has_lost_nothing(supervisor: Supervisor) -> None:
    with start(supervisor, SPEAKS) as program:
        program.communicate()
    eventually(lambda: "step" in supervisor.kinds, "its last word is heard")
    supervisor.ear.finish()
    assert not supervisor.failures


def test_a_program_that_speaks_over_a_newer_line_has_lost_nothing(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that replaced itself by another program, with hooks of its own."""
    monkeypatch.setattr(ear, "END_WITHIN_S", 0.0)
    older, newer = (Wire(str(supervisor.path)) for _ in range(2))
    for wire in (older, newer):
        wire.connect()
    eventually(lambda: supervisor.kinds == ["hook", "hook"], "both are heard")
    older.close()
    supervisor.ear._listeners[0].join()
    assert not supervisor.failures
    newer.close()
