"""A supervisor reads heartbeats and takes stack dumps of real processes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.board.beats import Beat, DumpOrder, Phase, Stack
from deepspeed_trainer.contract import attempt_dir
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.stackdump import DUMP_SIGNAL
from deepspeed_trainer.hooks.wire import SOCKET_ENV, STACKS_FILE, SUPERVISOR_ENV
from deepspeed_trainer.rank import rankenv
from deepspeed_trainer.rank.ear import HookEar
from deepspeed_trainer.rank.proc import catches, read_process
from deepspeed_trainer.rank.vitals import Vitals
from tests.pure.deepspeed_trainer.makers import a_contract
from tests.support.eventually import eventually as until

PROGRAM = Path(__file__).with_name("standing.py")
Start = Callable[[str], "Rank"]


class Rank:
    """A process that stands in some way, and what its supervisor sees."""

    def __init__(self, how: str, folder: Path) -> None:
        self.folder = folder
        (folder / "own").mkdir()
        self.contract = a_contract(storage=str(folder / "storage"))
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), how, str(folder / "own")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()
        self.vitals = Vitals(self.contract, 3, folder / "own")
        self._orders = 0

    def dump(self) -> Stack:
        """Order a dump and return what the supervisor says of it."""
        self._orders += 1
        self.vitals.obey(DumpOrder(self._orders, "1-first"))
        facts = [fact for fact in self.vitals.facts() if fact["kind"] == "stack"]
        assert [fact["number"] for fact in facts] == [self._orders]
        return Stack(**facts[0]["stack"])

    @property
    def file(self) -> Path:
        job, run = self.contract.job, self.contract.run
        folder = Path(attempt_dir(self.contract.storage or "", job, run, self.contract.attempt))
        return folder / "stacks" / "1-first" / "rank-00003.txt"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    ranks: list[Rank] = []

    def start_rank(how: str) -> Rank:
        ranks.append(Rank(how, tmp_path))
        return ranks[-1]

    yield start_rank
    for rank in ranks:
        rank.end()


def test_a_hooked_process_opens_its_stacks_beside_the_socket(tmp_path: Path) -> None:
    """A command per node reaches the sockets of its ranks through links."""
    folder, shared = tmp_path / "own", tmp_path / "shared"
    folder.mkdir()
    shared.mkdir()
    (shared / "hook-1").symlink_to(folder / "hook")
    env = {"PYTHONPATH": os.pathsep.join([rankenv.RANK_SITE, *sys.path])}
    env |= {SOCKET_ENV: str(shared / "hook-1"), SUPERVISOR_ENV: str(os.getpid()), "RANK": "1"}
    ear = HookEar(folder / "hook", lambda _fact: None)
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(DUMP_SIGNAL)})"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    ear.finish()
    assert done.returncode == 0, done.stderr
    assert 'File "<string>"' in (folder / STACKS_FILE).read_text()


def test_a_heartbeat_is_told_once(start: Start) -> None:
    rank = start("here")
    (fact,) = rank.vitals.facts()
    beat = Beat.from_fact(fact)
    assert (beat.phase, beat.steps) == (Phase.FORWARD, 0)
    assert beat.age_s >= 0
    assert rank.vitals.facts() == []


def test_a_process_that_stands_shows_the_same_stack_twice(start: Start) -> None:
    rank = start("here")
    first, second = rank.dump(), rank.dump()
    assert first.fingerprint is not None
    assert first.fingerprint == second.fingerprint
    assert (first.state, first.waits_in) == ("S", None)
    assert first.place == place_of("threading.Event().wait()")
    text = rank.file.read_text()
    assert "in stand_here" in text
    assert "State:\tS (sleeping)" in text
    assert "waits at" in text


def test_a_process_that_moves_shows_other_stacks(start: Start) -> None:
    rank = start("move")
    assert len({rank.dump().fingerprint for _ in range(6)}) > 1


def test_a_process_in_native_code_is_dumped_and_seen_to_compute(start: Start) -> None:
    rank = start("native")
    first = rank.dump()
    assert first.place == place_of("sum(range(10**12))")
    until(lambda: rank.dump().cpu_s > first.cpu_s + 0.2, "no CPU time is seen")


def test_the_work_of_a_child_counts(start: Start) -> None:
    rank = start("child")
    first = rank.dump()
    until(lambda: rank.dump().cpu_s > first.cpu_s + 0.2, "the child's CPU time is not seen")


def test_a_wait_for_other_ranks_is_told_from_one_of_its_own(start: Start) -> None:
    assert start("collective").dump().waits_in is not None


def test_a_stopped_process_is_left_alone(start: Start) -> None:
    rank = start("here")
    rank.process.send_signal(signal.SIGSTOP)
    until(lambda: rank.dump().state == "T", "it does not stop")
    assert rank.dump().fingerprint is None
    pending = Path(f"/proc/{rank.process.pid}/status").read_text()
    masks = [
        line.split()[1] for line in pending.splitlines() if line.startswith(("SigPnd", "ShdP"))
    ]
    assert not any(int(mask, 16) >> (DUMP_SIGNAL - 1) & 1 for mask in masks)
    rank.process.send_signal(signal.SIGCONT)
    until(lambda: rank.dump().fingerprint is not None, "no stack after it goes on")


def test_a_program_that_has_taken_the_signal_keeps_it(start: Start) -> None:
    rank = start("taken")
    assert rank.said == "left alone"
    stack = rank.dump()
    assert stack.fingerprint is None
    assert stack.state == "S"
    assert rank.process.poll() is None


def test_a_process_without_a_handler_is_not_harmed(start: Start) -> None:
    rank = start("unhandled")
    assert not catches(rank.process.pid, DUMP_SIGNAL)
    assert rank.dump().fingerprint is None
    rank.process.send_signal(DUMP_SIGNAL)
    assert rank.dump().state == "S", "the signal is one that ends a process"


def test_a_process_that_is_gone_does_not_answer(start: Start) -> None:
    rank = start("here")
    rank.end()
    assert not rank.dump().answered
    assert read_process(rank.process.pid) is None


def test_without_storage_the_stacks_go_to_the_log(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    rank = start("here")
    rank.vitals = Vitals(a_contract(storage=None), 3, rank.folder / "own")
    rank.dump()
    assert "[rank 3] " in capsys.readouterr().out


def test_a_full_storage_does_not_end_the_rank(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    rank = start("here")
    (rank.folder / "storage").write_text("a file where a folder should be")
    assert rank.dump().fingerprint is not None
    assert "no stack dump on the storage" in capsys.readouterr().err


def test_our_own_process_is_dumped_from_a_thread_beside() -> None:
    page = Page.anonymous()
    done = threading.Event()
    trains = threading.Thread(target=beat_and_wait, args=(page, done))
    trains.start()
    vitals = Vitals(a_contract(storage=None), 0, page)
    until(lambda: bool(vitals.facts()), "no heartbeat")
    vitals.obey(DumpOrder(1, "1-first"))
    (fact,) = vitals.facts()
    done.set()
    trains.join()
    assert Stack(**fact["stack"]).place == f"{Path(__file__).name}:{LINE_OF_WAIT}"


def beat_and_wait(page: Page, done: Any) -> None:
    Heartbeat(lambda: page, print).enter(Phase.FORWARD)
    done.wait()


LINE_OF_WAIT = beat_and_wait.__code__.co_firstlineno + 2


def place_of(text: str) -> str:
    lines = PROGRAM.read_text().splitlines()
    return f"{PROGRAM.name}:{next(n for n, line in enumerate(lines, 1) if text in line)}"
