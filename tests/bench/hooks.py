"""What the hooks cost a step, taken off and put on again inside one training.

Two ranks of ZeRO-3 under torchrun (programs/hooked.py) do blocks of steps with hooks, without, and
without again, forth and back; their facts go to this process, as to a supervisor.  So other load on
the machine meets all three alike.  This leaves out what supervisors, the board and Ray take beside
the ranks: that is in `tests.bench.speed`.

Run it with a Python that has torch and deepspeed: `python -m tests.bench.hooks`
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch

from deepspeed_trainer.rank.ear import HookEar
from tests.support import figures
from tests.trainer.attempts import CONFIG
from tests.trainer.raycluster import ROOT, free_ports

PROGRAM = Path(__file__).parent / "programs" / "hooked.py"
ON, OFF, AGAIN = "on", "off", "off again"
FACTS = ("seconds_per_step", "cpu_s_per_step")
RUN_S = 550.0


def conclude(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """On beside off and off beside itself; the difference in microseconds of a step."""

    def column(system: str, fact: str) -> list[float]:
        mine = [block for block in blocks if block["system"] == system]
        return [block[fact] for block in sorted(mine, key=lambda block: block["round"])][1:]

    def differ(system: str, fact: str) -> dict[str, Any]:
        pairs = zip(column(system, fact), column(OFF, fact), strict=True)
        found = [1e6 * (a - b) for a, b in pairs]
        bounds = figures.interval_of_median(found) or ()
        told = {"median_us": statistics.median(found), "interval_us": bounds}
        return {**told, "ratio": figures.compare(column(system, fact), column(OFF, fact))}

    return {
        fact: {
            "step_off_us": 1e6 * statistics.median(column(OFF, fact)),
            "hooks": differ(ON, fact),
            "off beside itself": differ(AGAIN, fact),
        }
        for fact in FACTS
    }


def measure(rounds: int, block: int, width: int) -> list[dict[str, Any]]:
    """Run the training; returns what each block took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "config.json"
        config.write_text(json.dumps(CONFIG))
        ears = [HookEar(folder / f"hook-{rank}", lambda _fact: None) for rank in (0, 1)]
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
        launcher += ["--master_addr=127.0.0.1", f"--master_port={free_ports(1)[0]}"]
        words = [f"--rounds={rounds}", f"--block={block}", f"--width={width}", f"--folder={name}"]
        subprocess.run(
            [sys.executable, *launcher, str(PROGRAM), *words, f"--deepspeed_config={config}"],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
                "PYTHONPATH": f"{ROOT}:{ROOT / 'trainer_image'}",
            },
            timeout=RUN_S,
            check=True,
        )
        for ear in ears:
            ear.finish()
        blocks: list[dict[str, Any]] = json.loads((folder / "blocks.json").read_text())
    return blocks


def main() -> int:
    """Measure, tell and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--width", type=int, default=512)
    args = parser.parse_args()
    load_before = os.getloadavg()
    blocks = measure(args.rounds, args.block, args.width)
    result = {"what": (__doc__ or "").splitlines()[0], "settings": vars(args)}
    result |= {"load_before": load_before, "load_after": os.getloadavg(), **conclude(blocks)}
    named = {each.__name__: str(each.__version__) for each in (torch, deepspeed)}
    print(json.dumps(result, indent=2))
    versions = {**named, "python": platform.python_version()}
    print(f"written to {figures.publish('hooks', {**result, 'blocks': blocks}, versions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
