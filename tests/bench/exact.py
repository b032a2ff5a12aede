"""Is a run that was killed again and again the same as one that never was?

The quickstart's MiniLM trains with dropout and accumulation on two ranks of a real Ray cluster,
once undisturbed and once killed as often as told, in the forward, between micro-batches, in the
save and while the save is hashed; where and when follows from the seed.  Compared are the losses
and gradient norms of every step, and a hash of each rank's shard at the end.  A third run, whose
seed of dropout differs, shows that the comparison can fail.

Two further runs have no dropout, whose masks no number of ranks can share: one undisturbed, one
that is killed twice and goes on with one rank, then with two again.

Run it with a Python that has ray, torch, deepspeed and transformers:
`python -m tests.bench.exact --model MODEL --text WORDNET --out exact.json`
"""

import argparse
import json
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import ray
import torch

from deepspeed_trainer.batching import read_batch, refit, write_batch
from deepspeed_trainer.contract import EXIT_SUCCEEDED
from deepspeed_trainer.fingerprint.proof import History, compare, join
from deepspeed_trainer.fingerprint.record import from_bits, read_segments
from tests.trainer.attempts import CONFIG, Job, Outcome
from tests.trainer.raycluster import RayCluster

PHASES = ("forward", "accumulation", "save", "hash")
SAVE_EVERY = 2
TAIL_STEPS = 2
SIZES = (2, 1, 2)
TOLERANCE = 0.01
"""Share by which losses and norms of a resized run may differ: sums of floats in another order."""


def plan_kills(seed: int, count: int) -> list[str]:
    """Return kills as the program takes them: every phase equally often, two steps apart."""
    dice = random.Random(seed)  # noqa: S311  no secret
    phases = [PHASES[number % len(PHASES)] for number in range(count)]
    dice.shuffle(phases)
    kills = []
    for number, phase in enumerate(phases):
        at_save = SAVE_EVERY * (number + 1)
        step = at_save if phase in ("save", "hash") else at_save - dice.randrange(SAVE_EVERY)
        kills.append(f"{dice.randrange(2)}:{phase}:{step}")
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("exact.json"))
    args = parser.parse_args()
    kills = plan_kills(args.seed, args.kills)
    print(f"seed {args.seed}: {' '.join(kills)}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="exact-") as storage,
        RayCluster(pods=("worker-a", "worker-b")) as cluster,
    ):
        found = measure(args, kills, cluster, Path(storage))
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["verdict"], indent=1))
    sys.exit(0 if found["verdict"]["exact"] else 1)


def measure(
    args: argparse.Namespace, kills: list[str], cluster: RayCluster, storage: Path
) -> dict[str, Any]:
    """Train the three runs and compare them."""
    steps = SAVE_EVERY * len(kills) + TAIL_STEPS
    schedule = {"warmup_max_lr": 3e-4, "warmup_num_steps": 4, "total_num_steps": 2 * steps}
    config = {
        **CONFIG,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "scheduler": {"type": "WarmupDecayLR", "params": schedule},
    }
    words = [f"--model={args.model.absolute()}", f"--text={args.text.absolute()}"]
    words += [f"--steps={steps}", f"--save-every={SAVE_EVERY}"]
    runs: dict[str, Outcome] = {}
    for name, deaths, seed in (
        ("undisturbed", [], 7),
        ("killed", kills, 7),
        ("other seed", [], 8),
    ):
        job = Job(cluster, storage, deepspeed_config=config)
        runs[name] = train(job, [*words, f"--seed={seed}"], deaths)
    words.append("--dropout=0")
    for name, sizes in (("no dropout", SIZES[:1]), ("resized", SIZES)):
        runs[name] = resize(Job(cluster, storage), config, words, steps, sizes)
    histories = {name: read_history(outcome) for name, outcome in runs.items()}
    return describe(args, kills, runs, histories)


def train(job: Job, words: list[str], deaths: list[str]) -> Outcome:
    """Run a job through all its deaths to its end."""
    for attempt, kill in enumerate(deaths, start=1):
        outcome = job.run(attempt, "exact.py", *words, f"--kill={kill}")
        failure = outcome.progress.failure
        if failure is None:
            raise RuntimeError(f"the kill {kill} of attempt {attempt} did not happen")
        source = outcome.progress.resumed_from
        resumed = source.step if source else 0
        print(f"attempt {attempt}: from step {resumed}, killed {kill}", flush=True)
        forget_old_saves(job, outcome, attempt)
    outcome = job.run(len(deaths) + 1, "exact.py", *words)
    if outcome.exit_code != EXIT_SUCCEEDED:
        raise RuntimeError(outcome.log[-3000:])
    return outcome


def resize(
    job: Job, config: dict[str, Any], words: list[str], steps: int, sizes: Sequence[int]
) -> Outcome:
    """Run a job with one number of ranks after the other, each attempt but the last killed."""
    batch = read_batch(config, sizes[0])
    if batch is None:
        raise ValueError("the configuration has no batch size")
    for attempt, ranks in enumerate(sizes, start=1):
        own = write_batch(config, refit(batch, ranks))
        end = steps * attempt // len(sizes)
        death = [f"--kill=0:forward:{end}"] if attempt < len(sizes) else []
        outcome = job.run(
            attempt, "exact.py", *words, *death, nodes=ranks, ranks_per_node=1, deepspeed_config=own
        )
        source = outcome.progress.resumed_from
        print(f"{ranks} ranks: from step {source.step if source else 0} to {end}", flush=True)
        forget_old_saves(job, outcome, attempt)
    if outcome.exit_code != EXIT_SUCCEEDED:
        raise RuntimeError(outcome.log[-3000:])
    return outcome


def forget_old_saves(job: Job, outcome: Outcome, attempt: int) -> None:
    """Remove the weights of saves that no later attempt can want: they would fill the disk."""
    source = outcome.progress.resumed_from
    if source is None:
        return
    for old in range(1, attempt):
        for file in job.checkpoints(old).glob("step*/*.pt"):
            if int(file.parent.name.removeprefix("step")) < source.step:
                file.unlink()


def read_history(outcome: Outcome) -> History:
    """What all ranks of all attempts of a run wrote down."""
    files = sorted(outcome.folder.parent.rglob("fingerprint/rank-*.jsonl"))
    return join(each for file in files for each in read_segments(file.read_text(), file.name))


def describe(
    args: argparse.Namespace,
    kills: list[str],
    runs: dict[str, Outcome],
    histories: dict[str, History],
) -> dict[str, Any]:
    """Return the figures and what they say."""
    shards = {
        name: [outcome.said(rank)["shard"] for rank in (0, 1)] for name, outcome in runs.items()
    }
    calm, killed, other = (histories[name] for name in ("undisturbed", "killed", "other seed"))
    difference = compare(calm, killed, tolerance=None)
    alike = shards["undisturbed"] == shards["killed"]
    proven = not calm.findings and not killed.findings
    verdict = {
        "exact": difference is None and alike and proven,
        "firstDifference": difference,
        "shardsAlike": alike,
        "findings": [*calm.findings, *killed.findings],
        "kills": {phase: sum(f":{phase}:" in kill for kill in kills) for phase in PHASES},
        "steps": len(killed.steps),
        "stepsDoneAgain": killed.redone,
        "stepsDoneAgainAlike": killed.redone_alike,
        "control": compare(calm, other, tolerance=None),
        "controlShardsAlike": shards["undisturbed"] == shards["other seed"],
        "resized": describe_resize(histories["no dropout"], histories["resized"]),
    }
    return {
        "verdict": verdict,
        "seed": args.seed,
        "kills": kills,
        "shards": shards,
        "fingerprints": {
            name: [step.chain for step in history.steps[-1].ranks]
            for name, history in histories.items()
        },
        "curves": {name: curve(history) for name, history in histories.items()},
        "segments": {name: segments(runs[name]) for name in ("killed", "resized")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {each.__name__: str(each.__version__) for each in (torch, deepspeed, ray)},
    }


def describe_resize(one: History, other: History) -> dict[str, Any]:
    """Samples are compared exactly, losses and norms within the tolerance."""
    pairs = [(a.mean_loss, b.mean_loss) for a, b in zip(one.steps, other.steps, strict=True)]
    return {
        "ranks": [start.layout.world_size for start in other.starts],
        "firstDifference": compare(one, other, tolerance=TOLERANCE),
        "tolerance": TOLERANCE,
        "largestDifferenceOfLoss": max(abs(a - b) / abs(a) for a, b in pairs),
        "findings": [*one.findings, *other.findings],
    }


def curve(history: History) -> dict[str, list[float]]:
    """Mean loss and gradient norm of each step of a run's history."""
    return {
        "loss": [round(done.mean_loss, 6) for done in history.steps],
        "norm": [round(done.norm, 6) for done in history.steps],
    }


def segments(outcome: Outcome) -> list[dict[str, Any]]:
    """What rank 0 of each attempt did, what was lost included."""
    files = sorted(outcome.folder.parent.rglob("fingerprint/rank-00000.jsonl"))
    found = [each for file in files for each in read_segments(file.read_text(), file.name)]
    return [
        {
            "attempt": each.start.attempt,
            "from": each.start.step,
            "loss": [round(step.mean_loss, 6) for step in each.steps],
            "norm": [round(from_bits(step.norm), 6) for step in each.steps],
        }
        for each in sorted(found, key=lambda each: each.start.attempt)
    ]


if __name__ == "__main__":
    main()
