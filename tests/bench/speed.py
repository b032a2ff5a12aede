"""The same DeepSpeed script under our trainer, under `deepspeed --no_ssh` and under torchrun.

The script (programs/steps.py: ZeRO-3, two ranks with gloo, one core and one thread each) takes its
own time after a warm-up.  The systems take turns, forth and back; `deepspeed` has two turns in each
round, so that it can be compared with itself first: noise that is no smaller than the bar decides
nothing.  Every process that a system needs counts in the CPU seconds of its job.

Run it with a Python that has ray, torch and deepspeed, on a machine that does nothing else:
`python -m tests.bench.speed --rounds 10`
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import ray
import torch

from deepspeed_trainer.contract import EXIT_SUCCEEDED, Entrypoint, EntrypointKind
from tests.support import figures
from tests.trainer.attempts import CONFIG, Job
from tests.trainer.raycluster import RayCluster, free_ports

PROGRAMS = Path(__file__).parent / "programs"
OURS, THEIRS, AGAIN, TORCHRUN = "ours", "deepspeed --no_ssh", "deepspeed again", "torchrun"
BAR = 0.01
FACTS = ("seconds_per_step", "median_step_s", "rank_cpu_s_per_step", "job_cpu_s_per_step")
RUN_S = 300.0
LIMITS = (
    "Two cores and no GPU: nothing here is about NCCL, overlap of communication with computation or"
    " real bandwidth. Ranks, launchers and Ray share two cores, one kernel and one clock."
)


class Bench:
    """Starts the script under each system; one Ray cluster stays for all turns of ours."""

    def __init__(self, folder: Path, cluster: RayCluster, words: Sequence[str]) -> None:
        self._folder = folder
        self._cluster = cluster
        self._words = words
        self._turns = 0
        self._config = folder / "config.json"
        self._config.write_text(json.dumps(CONFIG))
        self._hosts = folder / "hosts"
        self._hosts.write_text("localhost slots=2\n")

    def run(self, system: str) -> dict[str, float]:
        """Run the script to its end; returns what it measured."""
        self._turns += 1
        out = self._folder / f"{self._turns}.json"
        words = [*self._words, f"--out={out}"]
        if system == OURS:
            self._run_ours(words)
        else:
            self._run_theirs(system, words)
        found: dict[str, float] = json.loads(out.read_text())
        return found

    def _run_ours(self, words: Sequence[str]) -> None:
        entrypoint = Entrypoint(EntrypointKind.SCRIPT, "steps.py", tuple(words))
        job = Job(self._cluster, self._folder / "storage", nodes=1, ranks_per_node=2)
        outcome = job.run(1, "steps.py", entrypoint=entrypoint)
        if outcome.exit_code != EXIT_SUCCEEDED:
            raise RuntimeError(outcome.log)

    def _run_theirs(self, system: str, words: Sequence[str]) -> None:
        port = free_ports(1)[0]
        launcher = ["--master_addr=127.0.0.1", f"--master_port={port}"]
        if system == TORCHRUN:
            launcher = ["torchrun", "--nproc_per_node=2", *launcher]
        else:
            launcher = ["deepspeed", "--no_ssh", "--node_rank=0", *launcher]
            launcher += [f"--hostfile={self._hosts}"]
        env = {**self._cluster.env, "BENCH_JOB": f"turn-{self._turns}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launcher, str(PROGRAMS / "steps.py"), *words, f"--deepspeed_config={self._config}"],
            env={**env, "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stdout)


def conclude(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each system's figures, ours beside each rival's of the same round, and the verdict."""

    def column(system: str, fact: str) -> list[float]:
        return [run[fact] for run in runs if run["system"] == system]

    def ratios(system: str, rival: str, fact: str = FACTS[0]) -> list[float]:
        pairs = zip(column(system, fact), column(rival, fact), strict=True)
        return [a / b for a, b in pairs]

    noise = ratios(AGAIN, THEIRS)
    return {
        "median": {
            system: {fact: statistics.median(column(system, fact)) for fact in FACTS}
            for system in (OURS, THEIRS, AGAIN, TORCHRUN)
        },
        "deepspeed beside itself": {
            fact: figures.compare(column(AGAIN, fact), column(THEIRS, fact)) for fact in FACTS
        },
        "ours to": {
            rival: {
                fact: figures.compare(column(OURS, fact), column(rival, fact)) for fact in FACTS
            }
            for rival in (THEIRS, TORCHRUN)
        },
        "verdict": {
            rival: figures.judge(noise, ratios(OURS, rival), BAR) for rival in (THEIRS, TORCHRUN)
        },
        "bar": BAR,
    }


def main() -> int:
    """Measure, tell and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=768)
    args = parser.parse_args()
    words = [f"--steps={args.steps}", f"--width={args.width}"]
    load_before, runs = os.getloadavg(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "storage").mkdir()
        env = {"BENCH_JOB": "ours"}
        with RayCluster(("worker",), ranks_per_pod=2, env=env, code=PROGRAMS) as cluster:
            bench = Bench(folder, cluster, words)
            for number, turn in enumerate(
                figures.rounds((THEIRS, OURS, TORCHRUN, AGAIN), args.rounds)
            ):
                for system in turn:
                    found = bench.run(system)
                    runs.append({"round": number, "system": system, **found})
                    print(f"{time.strftime('%T')} {runs[-1]}", flush=True)
    result = {"what": (__doc__ or "").splitlines()[0], "limits": LIMITS, "words": words}
    result |= {"load_before": load_before, "load_after": os.getloadavg(), **conclude(runs)}
    named = {each.__name__: str(each.__version__) for each in (torch, deepspeed, ray)}
    versions = {**named, "python": platform.python_version()}
    file = figures.publish("speed", {**result, "runs": runs}, versions)
    print(json.dumps({"median": result["median"], "verdict": result["verdict"]}, indent=2))
    print(f"{LIMITS}\nwritten to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
