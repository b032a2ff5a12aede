"""From the kill of a rank to the first step of all ranks after it, inside the running group.

One attempt on two pods; its program (programs/killed.py) is killed by SIGKILL as often as told,
some steps after a save.  Beside it stands what the first start of the same job took, and where the
time of a restart goes.

Run it with a Python that has ray, torch and deepspeed: `python -m tests.bench.recover --kills 5`
"""

import argparse
import json
import os
import platform
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
from tests.trainer.attempts import Job
from tests.trainer.raycluster import RayCluster

PROGRAMS = Path(__file__).parent / "programs"
EVENTS = ("began", "engine", "loaded", "first step")
BAR_S = 20.0
Start = dict[str, dict[str, float]]


def read_starts(notes: Path) -> list[Start]:
    """What one rank wrote down, start by start."""
    starts: list[Start] = []
    for line in notes.read_text().splitlines():
        told = json.loads(line)
        if told["event"] == EVENTS[0]:
            starts.append({})
        starts[-1][told["event"]] = {"at": told["at"], "step": told["step"]}
    return starts


def describe(begun_at: float, ranks: Sequence[list[Start]]) -> dict[str, Any]:
    """Seconds of the first start, and of each restart from the kill on; the last rank counts."""

    def since(moment: float, number: int) -> dict[str, float]:
        times = {event: max(r[number][event]["at"] for r in ranks) for event in EVENTS}
        return {event: round(at - moment, 2) for event, at in times.items()}

    killed = [start["killed"] for start in ranks[-1] if "killed" in start]
    restarts = [since(each["at"], number) for number, each in enumerate(killed, start=1)]
    lost = [each["step"] - ranks[0][n]["loaded"]["step"] for n, each in enumerate(killed, start=1)]
    to_step = [each["first step"] for each in restarts]
    return {
        "first start": since(begun_at, 0),
        "restarts": restarts,
        "seconds from kill to all ranks' first step": figures.summarize(to_step),
        "steps lost": lost,
        "bar_s": BAR_S,
        "verdict": "within the bar" if max(to_step) <= BAR_S else "not within the bar",
    }


def measure(kills: int, save_every: int) -> dict[str, Any]:
    """Run the attempt to its end; returns what is published."""
    with tempfile.TemporaryDirectory() as name, RayCluster(("a", "b"), code=PROGRAMS) as cluster:
        folder = Path(name)
        (folder / "storage").mkdir()
        words = (f"--notes={name}", f"--kills={kills}", f"--save-every={save_every}")
        entrypoint = Entrypoint(EntrypointKind.SCRIPT, "killed.py", words)
        job = Job(cluster, folder / "storage", restarts_left=kills, backoff_s=0)
        begun_at = time.time()
        outcome = job.run(1, "killed.py", entrypoint=entrypoint)
        if (outcome.exit_code, outcome.progress.restarts) != (EXIT_SUCCEEDED, kills):
            raise RuntimeError(outcome.log)
        return describe(begun_at, [read_starts(folder / f"rank-{rank}.jsonl") for rank in (0, 1)])


def main() -> int:
    """Measure, tell and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--save-every", type=int, default=10)
    args = parser.parse_args()
    load_before = os.getloadavg()
    result = {"what": (__doc__ or "").splitlines()[0], "load_before": load_before}
    result |= {**measure(args.kills, args.save_every), "load_after": os.getloadavg()}
    named = {each.__name__: str(each.__version__) for each in (torch, deepspeed, ray)}
    versions = {**named, "python": platform.python_version()}
    print(json.dumps(result, indent=2))
    print(f"written to {figures.publish('recover', result, versions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
