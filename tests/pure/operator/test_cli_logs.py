"""Reading ranks' lines in the head's pod: where they are, in which order, and when there are none.

The pod is this machine: the reader's own program runs on real files, with paths below a folder.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepspeed_operator.cli.ends import NotThere, Unavailable, WrongUse
from deepspeed_operator.cli.logs import LogReader, Wanted

RUN = "team/bert/uid/run-1"


def an_attempt(number: int = 1, state: str = "Running") -> dict[str, Any]:
    return {
        "number": number, "state": state, "cluster": f"bert-{number}",
        "submissionId": f"bert-a{number}",
    }  # fmt: skip


def a_job(*attempts: dict[str, Any], finished: bool = False, stored: bool = True) -> dict[str, Any]:
    conditions = [
        {"type": "Finished", "status": str(finished), "reason": "x"},
        {"type": "Ready", "status": "True", "reason": "Because", "message": "the cluster starts"},
    ]
    storage = {"storage": {"volumeClaim": "runs"}} if stored else {}
    status = {"attempts": list(attempts), "conditions": conditions, "phase": "Starting"}
    spec = {"nodes": 2, "entrypoint": {"script": "train.py"}, **storage}
    return {"spec": spec, "status": {**status, "run": {"storagePath": RUN}}}


class Machine:
    """A cluster whose pods are a folder of this machine."""

    def __init__(self, root: Path, *jobs: dict[str, Any]) -> None:
        self.root = root
        self._jobs = list(jobs)
        self.heads = ["bert-1", "bert-2"]
        self.between: list[Any] = []

    def job(self, _name: str) -> dict[str, Any]:
        if self.between:
            self.between.pop(0)()
        return self._jobs.pop(0) if len(self._jobs) > 1 else self._jobs[0]

    def pods(self, _job: str) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    "name": f"{cluster}-head",
                    "labels": {"ray.io/cluster": cluster, "ray.io/node-type": "head"},
                },
                "status": {"phase": "Running"},
            }
            for cluster in self.heads
        ]

    def execute(self, _pod: str, container: str, command: list[str]) -> str:
        assert container == "ray-head"
        order = json.loads(command[-1])
        order["folder"] = f"{self.root}{order['folder']}"
        done = [sys.executable, *command[1:-1], json.dumps(order)]
        return subprocess.run(done, capture_output=True, text=True, check=True).stdout

    def write(self, rank: int, text: str, attempt: int = 1, kind: str = "rank") -> None:
        folder = self.root / f"mnt/dsjob/{RUN}/attempt-{attempt}/logs"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{kind}-{rank:05d}.log").open("a") as file:
            file.write(text)


def read(machine: Machine, **wanted: Any) -> tuple[list[str], list[str]]:
    notes: list[str] = []
    reader = LogReader(machine, Wanted("bert", **wanted), notes.append, poll_s=0)
    return list(reader.lines()), notes


def test_all_ranks_are_read_each_line_with_its_rank(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_job(an_attempt()))
    machine.write(0, "one\ntwo\n")
    machine.write(1, "eins\n")
    lines, notes = read(machine)
    assert lines == ["[rank 0] one", "[rank 0] two", "[rank 1] eins"]
    assert notes == ["attempt 1:"]


def test_one_rank_is_read_as_it_wrote(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_job(an_attempt()))
    machine.write(0, "one\n")
    machine.write(1, "[rank 7] eins\n")
    assert read(machine, rank=1)[0] == ["[rank 7] eins"]


def test_following_reads_on_line_by_line_to_the_end(tmp_path: Path) -> None:
    running, over = a_job(an_attempt()), a_job(an_attempt(state="Succeeded"), finished=True)
    machine = Machine(tmp_path, running, running, running, over)
    machine.between = [
        lambda: machine.write(0, "a\nhalf"),
        lambda: None,
        lambda: machine.write(0, " a line\n"),
        lambda: machine.write(0, "the end without a newline"),
    ]
    lines, _ = read(machine, rank=0, follow=True)
    assert lines == ["a", "half a line", "the end without a newline"]


def test_following_goes_on_with_the_next_attempt(tmp_path: Path) -> None:
    first = a_job(an_attempt())
    second = a_job(an_attempt(state="Failed"), an_attempt(2))
    over = a_job(an_attempt(state="Failed"), an_attempt(2, "Succeeded"), finished=True)
    machine = Machine(tmp_path, first, first, second, over)
    machine.write(0, "first\n")
    machine.write(0, "second\n", attempt=2)
    lines, notes = read(machine, rank=0, follow=True)
    assert lines == ["first", "second"]
    assert notes == ["attempt 1:", "attempt 2:"]


def test_an_earlier_attempt_is_read_when_asked(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_job(an_attempt(state="Failed"), an_attempt(2)))
    machine.write(0, "first\n")
    assert read(machine, attempt=1, follow=True)[0] == ["[rank 0] first"]
    with pytest.raises(NotThere, match="no attempt 3; it has 1, 2"):
        read(machine, attempt=3)


def test_without_storage_the_lines_are_found_in_rays_log(tmp_path: Path) -> None:
    folder = tmp_path / "tmp/ray/session_latest/logs"
    folder.mkdir(parents=True)
    said = "(RayTrainWorker pid=1) [rank 1] eins\n[trainer] Succeeded\n(x) [rank 0] one\n"
    (folder / "job-driver-bert-a1.log").write_text(said)
    machine = Machine(tmp_path, a_job(an_attempt(), stored=False))
    assert read(machine)[0] == ["[rank 1] eins", "[rank 0] one"]
    assert read(machine, rank=1)[0] == ["eins"]


def a_node_job(*, stored: bool = True) -> dict[str, Any]:
    job = a_job(an_attempt(), stored=stored)
    job["spec"]["entrypoint"] = {"command": ["./train.sh"], "per": "Node"}
    return job


def test_a_command_per_node_is_read_beside_its_ranks_and_each_line_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_node_job())
    machine.write(0, "prepares\n[rank 0] one\ncleans up\n", kind="node")
    machine.write(1, "prepares too\n[rank 1] eins\n", kind="node")
    machine.write(0, "one\n")
    machine.write(1, "eins\n")
    assert read(machine)[0] == [
        "[node 0] prepares", "[node 0] cleans up", "[node 1] prepares too",
        "[rank 0] one", "[rank 1] eins",
    ]  # fmt: skip
    assert read(machine, rank=1)[0] == ["eins"]
    assert read(machine, node=0)[0] == ["prepares", "[rank 0] one", "cleans up"]


def test_without_storage_a_command_per_node_is_found_in_rays_log(tmp_path: Path) -> None:
    folder = tmp_path / "tmp/ray/session_latest/logs"
    folder.mkdir(parents=True)
    said = "(w pid=1) [node 1] prepares\n(w pid=1) [node 1] [rank 1] eins\n[trainer] Succeeded\n"
    (folder / "job-driver-bert-a1.log").write_text(said)
    machine = Machine(tmp_path, a_node_job(stored=False))
    assert read(machine)[0] == ["[node 1] prepares", "[rank 1] eins"]
    assert read(machine, rank=1)[0] == ["eins"]
    assert read(machine, node=1)[0] == ["prepares", "[rank 1] eins"]
    assert read(machine, node=0)[0] == []


def test_what_a_rank_prints_is_taken_for_no_node(tmp_path: Path) -> None:
    folder = tmp_path / "tmp/ray/session_latest/logs"
    folder.mkdir(parents=True)
    (folder / "job-driver-bert-a1.log").write_text("(w pid=1) [rank 1] on [node 7] now\n")
    assert read(Machine(tmp_path, a_job(an_attempt(), stored=False)))[0] == [
        "[rank 1] on [node 7] now"
    ]


def test_only_a_command_per_node_has_lines_of_nodes(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="for a command with per: Node"):
        read(Machine(tmp_path, a_job(an_attempt())), node=0)


@pytest.mark.parametrize("kind", ["function", "driver"])
def test_ranks_in_rays_own_workers_share_a_log(tmp_path: Path, kind: str) -> None:
    job = a_job(an_attempt())
    job["spec"]["entrypoint"] = {kind: "x"}
    for folder, name in (
        ("tmp/ray/session_latest/logs", "job-driver-bert-a1.log"),
        (f"mnt/dsjob/{RUN}/attempt-1/logs", "driver.log"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text(f"said in {name}\n")
    expected = "job-driver-bert-a1.log" if kind == "function" else "driver.log"
    assert read(Machine(tmp_path, job))[0] == [f"said in {expected}"]
    with pytest.raises(WrongUse, match="leave --rank out"):
        read(Machine(tmp_path, job), rank=0)


def test_a_long_log_is_read_in_parts_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepspeed_operator.cli.podfiles.MOST_BYTES", 12)
    machine = Machine(tmp_path, a_job(an_attempt(), finished=True))
    said = [f"{n:04d}" for n in range(10)]
    machine.write(0, "\n".join(said))
    machine.write(1, "short\n" + "x" * 30)
    lines, _ = read(machine)
    assert [line for line in lines if "[rank 0]" in line] == [f"[rank 0] {each}" for each in said]
    assert "".join(line.removeprefix("[rank 1] ") for line in lines[10:]) == "short" + "x" * 30


def test_a_job_without_an_attempt_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=r"no attempt yet: .*the cluster starts"):
        read(Machine(tmp_path, a_job()))


def test_following_waits_for_the_head_and_says_why_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_job(), a_job(), a_job(an_attempt(), finished=True))
    machine.write(0, "one\n")
    lines, notes = read(machine, follow=True)
    assert lines == ["[rank 0] one"]
    assert len([note for note in notes if "the cluster starts" in note]) == 1


def test_after_the_cluster_it_is_said_where_the_lines_are(tmp_path: Path) -> None:
    machine = Machine(tmp_path, a_job(an_attempt(state="Failed"), finished=True))
    machine.heads = []
    with pytest.raises(NotThere, match=f"on claim runs in {RUN}/attempt-1/logs") as told:
        read(machine)
    assert "ttlSecondsAfterFinished" in str(told.value)


@pytest.mark.parametrize("answer", ["nonsense", "[1]", '{"rank-00000.log": 1}'])
def test_an_answer_that_makes_no_sense_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    machine = Machine(tmp_path, a_job(an_attempt()))
    monkeypatch.setattr(machine, "execute", lambda *_: answer)
    with pytest.raises(Unavailable, match="answers nonsense"):
        read(machine)
