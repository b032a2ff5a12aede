"""What the ranks of a job write, read in the head's pod with its caller's own right to exec.

Each look is a short program in the pod that reads on from where the last one stopped: nothing is
left running there, and following survives a broken line and a new attempt.  With storage the ranks'
files on it are read, else Ray's log of the job.  A command per node writes to a file of its node;
what its launcher passes on of the ranks is read from theirs.  The ranks of a function or a driver
program live in Ray's own workers, and share one log without a rank on its lines.  After the cluster
is gone nothing can be read here; then it is said where the files are.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from deepspeed_operator.cli.ends import NotThere, WrongUse
from deepspeed_operator.cli.picture import Job, condition, describe, is_true
from deepspeed_operator.cli.podfiles import Place, find_head, read_files
from deepspeed_trainer.contract import STORAGE_MOUNT

POLL_S: Final = 1.0
RAY_LOGS: Final = "/tmp/ray/session_latest/logs"  # noqa: S108  in the pod
RANK_LINE: Final = re.compile(r"\[rank (\d+)\] (.*)")
ANY_LINE: Final = re.compile(r"\[(rank|node) (\d+)\] (.*)")
OWN_FILE: Final = re.compile(r"(rank|node)-(\d+)\.log")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read."""

    name: str
    rank: int | None = None
    """One rank; None for all, each line with its rank."""
    node: int | None = None
    """The command of one node, with all that it passes on; None for those of all nodes."""
    attempt: int | None = None
    """None for the last one, and when following for those that come after it."""
    follow: bool = False


@dataclass(slots=True)
class LogReader:
    """Reads the lines of one job's ranks."""

    place: Place
    wanted: Wanted
    note: Callable[[str], None]
    """Says what is going on beside the lines."""
    poll_s: float = POLL_S
    _attempt: int = 0
    _offsets: dict[str, int] = field(default_factory=dict)
    _noted: str = ""
    _is_shared: bool = False

    def lines(self) -> Iterator[str]:
        """Yield lines until there are no more; when following, until the job is finished.

        Raises:
            NotThere: no such job or attempt, or its cluster is gone.
            Unavailable: the pod cannot be read.
        """
        while True:
            job = self.place.job(self.wanted.name)
            over = is_true(job, "Finished")
            found = list(self._read_on(job, over=over))
            yield from found
            if not found and (over or not self.wanted.follow or self._is_over(job)):
                return
            if not found:
                time.sleep(self.poll_s)

    def _read_on(self, job: Job, *, over: bool) -> Iterator[str]:
        attempt = self._choose(job)
        head = None if attempt is None else self._find_head(attempt)
        if attempt is None or head is None:
            self._explain(job, attempt, over=over)
            return
        if attempt["number"] != self._attempt:
            self._attempt, self._offsets = attempt["number"], {}
            self.note(f"attempt {self._attempt}:")
        order = {**self._order(job, attempt), "offsets": self._offsets, "over": over}
        for name, (offset, text) in read_files(self.place, head, order).items():
            self._offsets[name] = offset
            yield from self._pick(name, text)

    def _choose(self, job: Job) -> Mapping[str, Any] | None:
        attempts = job.get("status", {}).get("attempts", [])
        number = self.wanted.attempt
        if number is None:
            return attempts[-1] if attempts else None
        found = [each for each in attempts if each["number"] == number]
        if not found and (not self.wanted.follow or is_true(job, "Finished")):
            known = ", ".join(str(each["number"]) for each in attempts) or "none"
            raise NotThere(f"{self.wanted.name} has no attempt {number}; it has {known}")
        return found[0] if found else None

    def _find_head(self, attempt: Mapping[str, Any]) -> str | None:
        """Return the name of the running head pod of an attempt."""
        return find_head(self.place.pods(self.wanted.name), attempt["cluster"])

    def _explain(self, job: Job, attempt: Mapping[str, Any] | None, *, over: bool) -> None:
        """Say why nothing can be read; raises NotThere unless waiting may help."""
        if not over and self.wanted.follow:
            if self._noted != (line := describe(job)):
                self.note(line)
                self._noted = line
            return
        if attempt is None:
            raise NotThere(f"{self.wanted.name} has no attempt yet: {describe(job)}")
        why = condition(job, "Ready").get("message", "")
        raise NotThere(
            f"the cluster of attempt {attempt['number']} has no running head ({why});"
            f" {_name_files(job, attempt)}; ttlSecondsAfterFinished keeps a finished cluster, and"
            f" `dsjob status {self.wanted.name}` has the last lines of the rank that failed"
        )

    def _order(self, job: Job, attempt: Mapping[str, Any]) -> dict[str, Any]:
        """Return which files hold the lines."""
        entrypoint, rank = job["spec"]["entrypoint"], self.wanted.rank
        self._is_shared = "function" in entrypoint or "driver" in entrypoint
        if self.wanted.node is not None and entrypoint.get("per") != "Node":
            raise WrongUse("--node is for a command with per: Node; the others have ranks alone")
        if self._is_shared and rank is not None:
            raise WrongUse(
                "the ranks of a function or a driver program share one log: leave --rank out"
            )
        if job["spec"].get("storage") is None or "function" in entrypoint:
            pattern = f"job-driver-{attempt['submissionId']}.log"
            return {"folder": RAY_LOGS, "pattern": pattern}
        if self._is_shared:
            return {"folder": _logs_folder(job, attempt), "pattern": "driver.log"}
        pattern = "*-?????.log" if entrypoint.get("per") == "Node" else "rank-?????.log"
        if rank is not None:
            pattern = f"rank-{rank:05d}.log"
        elif self.wanted.node is not None:
            pattern = f"node-{self.wanted.node:05d}.log"
        return {"folder": _logs_folder(job, attempt), "pattern": pattern}

    def _pick(self, name: str, text: str) -> Iterator[str]:
        of_one = OWN_FILE.fullmatch(name)
        for line in text.splitlines():
            if self._is_shared:
                yield line
                continue
            found = (of_one[1], int(of_one[2]), line) if of_one is not None else _split(line)
            if found is not None:
                yield from self._pick_line(*found, has_own_file=of_one is not None)

    def _pick_line(self, kind: str, number: int, said: str, *, has_own_file: bool) -> Iterator[str]:
        """Yield a line if it is wanted; `kind` is who wrote it, a rank or the command of a node."""
        if kind == "node" and self.wanted.node is not None:
            if number == self.wanted.node:
                yield said
            return
        if kind == "node" and (passed_on := RANK_LINE.match(said)) is not None:
            if has_own_file:
                return
            kind, number, said = "rank", int(passed_on[1]), passed_on[2]
        if self.wanted.rank is None and self.wanted.node is None:
            yield f"[{kind} {number}] {said}"
        elif kind == "rank" and number == self.wanted.rank:
            yield said

    def _is_over(self, job: Job) -> bool:
        """Whether the one attempt that is wanted has ended."""
        if self.wanted.attempt is None:
            return False
        attempt = self._choose(job)
        return attempt is not None and attempt["state"] in ("Succeeded", "Failed")


def _split(line: str) -> tuple[str, int, str] | None:
    """Return who wrote a line of Ray's log, and what."""
    found = ANY_LINE.search(line)
    return None if found is None else (found[1], int(found[2]), found[3])


def _logs_folder(job: Job, attempt: Mapping[str, Any]) -> str:
    run = job["status"]["run"]["storagePath"]
    return f"{STORAGE_MOUNT}/{run}/attempt-{attempt['number']}/logs"


def _name_files(job: Job, attempt: Mapping[str, Any]) -> str:
    storage = job["spec"].get("storage")
    if storage is None:
        return "without spec.storage its lines went with it"
    path = _logs_folder(job, attempt).removeprefix(f"{STORAGE_MOUNT}/")
    if "uri" in storage:
        return f"its lines are in {storage['uri'].rstrip('/')}/{path}"
    return f"its lines are on claim {storage['volumeClaim']} in {path}"
