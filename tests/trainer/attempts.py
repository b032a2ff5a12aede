"""One attempt, run by the driver as the Ray job would run it, and what it left behind."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspeed_trainer.contract import (
    Entrypoint,
    JobRef,
    Progress,
    RunContract,
    attempt_dir,
    checkpoint_dir,
)
from tests.trainer.raycluster import RayCluster

ATTEMPT_S = 300.0
_jobs = itertools.count(1)
CONFIG = {
    "train_micro_batch_size_per_gpu": 4,
    "zero_optimization": {"stage": 3},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": 12, "warmup_num_steps": 2},
    },
}


@dataclass(frozen=True)
class Outcome:
    """What an attempt left behind."""

    exit_code: int
    progress: Progress
    events: list[dict[str, Any]]
    log: str
    folder: Path

    def of_kind(self, event: str) -> list[dict[str, Any]]:
        """Events of one kind, in their order."""
        return [line for line in self.events if line["event"] == event]

    def rank_log(self, rank: int) -> str:
        """What one rank wrote, from the storage."""
        return (self.folder / "logs" / f"rank-{rank:05d}.log").read_text()

    def said(self, rank: int) -> dict[str, Any]:
        """The one JSON line that a rank of a test program prints, at its first start."""
        return self.said_at_starts(rank)[0]

    def said_at_starts(self, rank: int) -> list[dict[str, Any]]:
        """The JSON line that a rank of a test program prints, at each of its starts."""
        lines = self.rank_log(rank).splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"')]


class Job:
    """A job with its storage; each attempt may differ in some fields of the contract."""

    def __init__(self, cluster: RayCluster, storage: Path, **fields: Any) -> None:
        self.cluster = cluster
        self.storage = storage
        self.ref = JobRef("team", "bert", f"{os.getpid()}-{next(_jobs)}")
        self._fields = fields

    def contract(self, attempt: int, program: str, *args: str, **fields: Any) -> RunContract:
        """Return the contract of an attempt of this job."""
        kind = "function" if ":" in program else "script"
        defaults: dict[str, Any] = {
            "job": self.ref,
            "run": "run-1",
            "attempt": attempt,
            "submission_id": f"{self.ref.uid}-a{attempt}",
            "nodes": 2,
            "ranks_per_node": 1,
            "accelerator": "cpu",
            "backend": "gloo",
            "cpus_per_rank": 1.0,
            "gpus_per_rank": 0,
            "entrypoint": Entrypoint(kind, program, args, {"from": "config"} if args == () else {}),
            "deepspeed_config": CONFIG,
            "storage": str(self.storage),
            "head_pod_uid": "head",
            "stop_grace_s": 2,
        }
        return RunContract(**{**defaults, **self._fields, **fields})

    def start(self, contract: RunContract) -> subprocess.Popen[str]:
        """Start the driver of an attempt."""
        return subprocess.Popen(
            [sys.executable, "-m", "deepspeed_trainer.driver"],
            env={**self.cluster.env, "DSJOB_CONTRACT": contract.to_json()},
            cwd=self.cluster.code,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, contract: RunContract, driver: subprocess.Popen[str]) -> Outcome:
        """Wait for the driver and collect what it left behind."""
        log, _ = driver.communicate(timeout=ATTEMPT_S)
        answer = self.cluster.progress_of(contract.submission_id)
        folder = Path(attempt_dir(str(self.storage), contract.job, contract.run, contract.attempt))
        file = folder / "events.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return Outcome(
            driver.returncode,
            Progress.from_json(json.dumps(answer)),
            [json.loads(line) for line in lines],
            log,
            folder,
        )

    def run(self, attempt: int, program: str, *args: str, **fields: Any) -> Outcome:
        """Run one attempt to its end."""
        contract = self.contract(attempt, program, *args, **fields)
        return self.finish(contract, self.start(contract))

    def checkpoints(self, attempt: int) -> Path:
        """Where an attempt's program saves."""
        return Path(checkpoint_dir(str(self.storage), self.ref, "run-1", attempt))
