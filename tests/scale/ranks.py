"""A thousand ranks at one head: calls, CPU and memory of the board, and the time of a commit.

The ranks are simulated and train nothing.  What each tells the board, and how often, is what its
supervisor would; it holds, hashes and brings its files by the real keeper.  The board is the real
actor on a real Ray head, with its endpoint, journal and manifests, over a real S3 server.  A run
starts, trains, saves twice and ends; the next attempt reads the checkpoint and ends.

Run it with a Python that has ray and obstore, VERSITYGW naming the S3 server:
`python -m tests.scale.ranks --ranks 1024`

All ranks, the board and the server share this machine's cores, and one process stands for all
ranks: seconds are longer than where each pod has its own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from deepspeed_trainer.board.beats import Beat, Phase
from deepspeed_trainer.board.lookup import open_board
from deepspeed_trainer.board.ranks import Orders, Verdict
from deepspeed_trainer.contract import (
    MANIFEST_FILE,
    Entrypoint,
    EntrypointKind,
    JobRef,
    RunContract,
    run_path,
)
from deepspeed_trainer.rank import resume
from deepspeed_trainer.rank.facts import Fact, FactBuffer
from deepspeed_trainer.rank.link import TICK_S, WAIT_TICK_S, pause_s
from tests.support import figures
from tests.trainer.raycluster import RayCluster
from tests.trainer.s3 import S3Server

ON_POD = 8
STEPS_PER_S = 2.0
SHARDS = (
    "zero_pp_rank_{}_mp_rank_00_model_states.pt",
    "zero_pp_rank_{}_mp_rank_00_optim_states.pt",
)
POLL_S = 2.0
"""How often the operator asks for progress."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Counts:
    """What was counted in one part of a run."""

    waits_s: list[float] = field(default_factory=list)
    answers: list[tuple[float, int]] = field(default_factory=list)
    """Seconds and bytes of each answer of the endpoint."""

    def describe(self, seconds: float, board_s: float) -> dict[str, Any]:
        """Return what is published of it."""
        calls = len(self.waits_s)
        return {
            "seconds": round(seconds, 2),
            "calls": calls,
            "calls_per_s": round(calls / seconds, 1),
            "board_cpu_s": round(board_s, 2),
            "board_cpu_share": round(board_s / seconds, 3),
            "board_cpu_ms_per_call": round(1000 * board_s / max(1, calls), 3),
            "call_ms": _summarize_ms(self.waits_s),
            "endpoint_ms": _summarize_ms([wait for wait, _ in self.answers]),
        }


def _summarize_ms(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    found = figures.summarize([1000 * value for value in seconds])
    return {name: round(value, 2) for name, value in found.items()}


class Crowd:
    """All ranks of one attempt, and what was counted of them."""

    def __init__(self, cluster: RayCluster, contract: RunContract, folder: Path) -> None:
        self.contract = contract
        self.board = open_board()
        self.counts = Counts()
        self.parts: dict[str, dict[str, Any]] = {}
        self.launched = 0
        self.ending = asyncio.Event()
        self.last_step = 0
        """The step that all ranks end with, once they do."""
        self._began_at = time.monotonic()
        self._cluster = cluster
        self._folder = folder
        self._pool = ThreadPoolExecutor(8)
        self.pid: int = ray.get(self.board.__ray_call__.remote(lambda _: os.getpid()))
        self.ranks = [Rank(self, rank) for rank in range(contract.world_size)]

    @property
    def step(self) -> int:
        """The step that all ranks are in."""
        return 1 + int(STEPS_PER_S * (time.monotonic() - self._began_at))

    @contextlib.asynccontextmanager
    async def part(self, name: str) -> AsyncIterator[None]:
        """Count what happens inside under this name."""
        self.counts, began, before_s = Counts(), time.monotonic(), cpu_s(self.pid)
        yield
        seconds = time.monotonic() - began
        self.parts[name] = self.counts.describe(seconds, cpu_s(self.pid) - before_s)
        print(name, self.parts[name], flush=True)

    async def call(self, rank: int, facts: list[Fact]) -> Orders:
        """One rank talks with the board."""
        began = time.monotonic()
        answer = self.board.sync.remote(self.contract.submission_id, rank, 0, facts)
        orders: Orders = await answer
        self.counts.waits_s.append(time.monotonic() - began)
        return orders

    async def poll(self) -> None:
        """Ask the endpoint as the operator does."""
        while True:
            began = time.monotonic()
            size = await asyncio.to_thread(self._ask)
            self.counts.answers.append((time.monotonic() - began, size))
            await asyncio.sleep(POLL_S)

    def _ask(self) -> int:
        url = f"http://127.0.0.1:{self._cluster.progress}/v1/progress/{self.contract.submission_id}"
        headers = {"Authorization": f"Bearer {self._cluster.token}"}
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            self.progress = answer.read()
        return len(self.progress)

    async def until(self, is_so: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for what the endpoint tells."""
        while True:
            await asyncio.to_thread(self._ask)
            if is_so(json.loads(self.progress)):
                return
            await asyncio.sleep(0.25)

    async def save(self, step: int, size_bytes: int) -> None:
        """All programs save at once, and go on when their files are held."""
        loop = asyncio.get_running_loop()
        saves = (
            loop.run_in_executor(self._pool, rank.save, self._folder, step, size_bytes)
            for rank in self.ranks
        )
        await asyncio.gather(*saves)

    async def prepare(self, rank: int, chosen: Any) -> Fact:
        """One rank reads what it continues from; of all files of no rank, rank 0."""
        loop = asyncio.get_running_loop()
        _, read = await loop.run_in_executor(
            self._pool, resume.prepare, self.contract, rank, rank, chosen
        )
        files = [file.to_wire() for file in read]
        return {"kind": "prepared", "number": chosen.number, "step": chosen.step, "files": files}


class Rank:
    """One rank: its supervisor's talk, and the keeper of its saves."""

    def __init__(self, crowd: Crowd, rank: int) -> None:
        self._crowd = crowd
        self._rank = rank
        self._facts = FactBuffer(crowd.contract, rank)
        size = crowd.contract.world_size
        self._wait_s, self._tick_s = pause_s(size, WAIT_TICK_S), pause_s(size, TICK_S)

    async def live(self) -> None:
        """From hello to the word that it may leave."""
        # Processes of many pods do not start in the same moment.
        await asyncio.sleep(self._wait_s * self._rank / self._crowd.contract.world_size)
        await self._start()
        for fact in ({"kind": "hook"}, {"kind": "group", "size": self._crowd.contract.world_size}):
            self._facts.put(fact)
        self._facts.put({"kind": "engine", "zero_stage": 3, "versions": {"torch": "none"}})
        while not self._crowd.ending.is_set():
            self._train()
            await self._sync()
            await asyncio.sleep(self._tick_s)
        self._train()
        orders = await self._sync({"kind": "end", "end": {"exit_code": 0, "oom_kills": 0}})
        while not orders.may_leave:
            await asyncio.sleep(self._wait_s)
            orders = await self._sync()
        self._facts.close()

    def save(self, folder: Path, step: int, size_bytes: int) -> None:
        """What the program's hook tells of a save; runs in a thread."""
        own, tag = folder / str(self._rank), f"step{step}"
        (own / tag).mkdir(parents=True, exist_ok=True)
        for shard in SHARDS:
            (own / tag / shard.format(self._rank)).write_bytes(os.urandom(size_bytes // 2))
        fact = {"kind": "saved", "folder": str(own), "only": tag, "tag": tag, "source": ""}
        self._facts.put({**fact, "step": step, "zero_stage": 3})
        self._facts.put({"kind": "save_end"})

    async def _start(self) -> None:
        crowd, pod = self._crowd, f"pod-{self._rank // ON_POD:04d}"
        hello = {"kind": "hello", "pod": pod, "pod_uid": f"uid-{pod}"}
        orders, done = await self._sync({**hello, "address": "10.0.0.1", "port": 29500}), 0
        while orders.launch is None:
            assert not orders.must_stop
            if orders.resume is not None and orders.resume.number != done:
                done = orders.resume.number
                orders = await self._sync(await crowd.prepare(self._rank, orders.resume))
                continue
            await asyncio.sleep(self._wait_s)
            orders = await self._sync()
        crowd.launched += 1

    def _train(self) -> None:
        step = self._crowd.last_step or self._crowd.step
        fact = {"kind": "step", "done": step, "begun": step, "rate": "16"}
        self._facts.put(fact)
        longest = {Phase.FORWARD: 0.1, Phase.BACKWARD: 0.2, Phase.STEP: 0.1, Phase.PROGRAM: 0.1}
        beat = Beat(phase=Phase.FORWARD, step=step, steps=step, age_s=0.1, longest_s=longest)
        self._facts.put(beat.to_fact())

    async def _sync(self, *last: Fact) -> Orders:
        orders = await self._crowd.call(self._rank, [*self._facts.drain(), *last])
        self._facts.keeper.obey(orders.upload, orders.newest_save)
        return orders


async def first_attempt(crowd: Crowd, calm_s: float, size_bytes: int) -> None:
    """Start, train, save twice, end."""
    ranks, poll = [asyncio.ensure_future(rank.live()) for rank in crowd.ranks], None
    async with crowd.part("start"):
        await crowd.until(lambda _: crowd.launched == len(ranks))
    poll = asyncio.ensure_future(crowd.poll())
    async with crowd.part("train"):
        await asyncio.sleep(calm_s)
    for step in (1000, 2000):
        async with crowd.part(f"save {step}"):
            await crowd.save(step, size_bytes)
            await crowd.until(lambda told: (told["checkpoint"] or {}).get("step") == step)  # noqa: B023
    await finish(crowd, ranks, poll)


async def next_attempt(crowd: Crowd) -> None:
    """Start from the checkpoint, and end."""
    ranks = [asyncio.ensure_future(rank.live()) for rank in crowd.ranks]
    async with crowd.part("resume"):
        await crowd.until(lambda _: crowd.launched == len(ranks))
    await finish(crowd, ranks, asyncio.ensure_future(crowd.poll()))


async def finish(
    crowd: Crowd, ranks: list[asyncio.Future[None]], poll: asyncio.Future[None]
) -> None:
    """All programs end."""
    async with crowd.part("end"):
        crowd.last_step = crowd.step
        crowd.ending.set()
        await asyncio.gather(*ranks)
        crowd.progress = (
            await crowd.board.conclude.remote(crowd.contract.submission_id, Verdict())
        ).encode()
    poll.cancel()
    assert json.loads(crowd.progress)["phase"] == "Succeeded", crowd.progress


def run_attempt(
    cluster: RayCluster, contract: RunContract, folder: Path, live: Callable[[Crowd], Any]
) -> dict[str, Any]:
    """Run one attempt of all ranks; returns what was counted."""

    async def run() -> dict[str, Any]:
        crowd = Crowd(cluster, contract, folder)
        assert await crowd.board.open.remote(contract.to_json())
        await live(crowd)
        return {
            "parts": crowd.parts,
            "progress_bytes": len(crowd.progress),
            "board_rss_mib": round(peak_memory_mib(crowd.pid), 1),
        }

    return asyncio.run(run())


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def peak_memory_mib(pid: int) -> float:
    """The most resident memory that a process has had (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def look_at(server: S3Server, contract: RunContract) -> dict[str, Any]:
    """What lies in the bucket after an attempt, and when its saves were brought and committed."""
    run = server.place_of(run_path(contract.job, contract.run))
    files = list((run / f"attempt-{contract.attempt}").glob("events*.jsonl"))
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    saves = []
    for commit in (line for line in events if line["event"] == "committed"):
        times = {
            kind: [e["time"] for e in events if e["event"] == kind and e["step"] == commit["step"]]
            for kind in ("saved", "brought")
        }
        manifest = server.place_of(f"{commit['path']}/{MANIFEST_FILE}")
        told = {
            "first rank holds it → committed": commit["time"] - min(times["saved"]),
            "last rank holds it → committed": commit["time"] - max(times["saved"]),
            "last rank brought it → committed": commit["time"] - max(times["brought"]),
        }
        seconds = {name: round(value, 2) for name, value in told.items()}
        saves.append({"seconds": seconds, "manifest_bytes": manifest.stat().st_size})
    requests = server.log.read_text().splitlines() if server.log.exists() else []
    return {
        "saves": saves,
        "events_bytes": sum(file.stat().st_size for file in files),
        "journal_bytes": sum(each.stat().st_size for each in (run / "journal").iterdir()),
        "objects": sum(1 for each in run.rglob("*") if each.is_file()),
        "requests": len(requests),
    }


def measure(count: int, calm_s: float, size_bytes: int) -> dict[str, Any]:
    """Run both attempts; returns what is published."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with S3Server(folder) as server, RayCluster(pods=(), env=server.env) as cluster:
            os.environ.update({**cluster.env, "PYTHONPATH": os.environ.get("PYTHONPATH", "")})
            ray.init(address=cluster.env["RAY_ADDRESS"], log_to_driver=False)
            first, second = (
                RunContract(
                    job=JobRef("team", "bert", "uid-1"), run="run-1", attempt=attempt,
                    submission_id=f"bert-a{attempt}", nodes=count // ON_POD, ranks_per_node=ON_POD,
                    accelerator="cpu", backend="gloo", cpus_per_rank=1.0, gpus_per_rank=0,
                    entrypoint=Entrypoint(EntrypointKind.SCRIPT, "train.py"),
                    deepspeed_config=None, storage=server.uri, head_pod_uid="head",
                )
                for attempt in (1, 2)
            )  # fmt: skip
            saves = folder / "saves"
            result = {
                "first attempt": run_attempt(
                    cluster, first, saves, lambda crowd: first_attempt(crowd, calm_s, size_bytes)
                ),
                "bucket": look_at(server, first),
                "next attempt": run_attempt(cluster, second, saves, next_attempt),
            }
            ray.shutdown()
    return result


def main() -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--calm", type=float, default=60.0, help="seconds of training alone")
    parser.add_argument("--size", type=int, default=16384, help="bytes that a rank saves")
    args = parser.parse_args()
    result = measure(args.ranks, args.calm, args.size)
    what = {"what": (__doc__ or "").splitlines()[0], "ranks": args.ranks}
    result = {**what, "size_bytes": args.size, "load_before": os.getloadavg(), **result}
    versions = {"ray": ray.__version__, "python": platform.python_version()}
    print(f"written to {figures.publish('ranks', result, versions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
