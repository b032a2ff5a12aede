"""How long a save holds up the training loop beyond DeepSpeed's own work, by its size.

Run `python -m tests.bench.saves --python PATH` with the path of an interpreter that has torch and
DeepSpeed; for the bucket versitygw is needed as well (see tests/trainer/s3).  What is measured, and
how, is said in tests/bench/programs/saves.py.
"""

import argparse
import json
import subprocess
from typing import Any

from tests.support import figures

ROUNDS = 6
"""The fewest of which the median's interval can be told."""
RESULT = "saves: "


def slope(points: dict[str, Any]) -> float:
    """Seconds more for a gigabyte more: least squares through all saves."""
    pairs = [(float(size), value) for size, found in points.items() for value in found["beyond_s"]]
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread


def main() -> None:
    """Measure volume and bucket, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    command = [args.python, "-m", "tests.bench.programs.saves", f"--rounds={args.rounds}"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    [line] = [line for line in said.splitlines() if line.startswith(RESULT)]
    found = json.loads(line.removeprefix(RESULT))
    result = {
        kind: {
            "slope_s_per_gb": slope(points),
            "by_size_gb": {
                size: {name: figures.summarize(values) for name, values in each.items()}
                for size, each in points.items()
            },
        }
        for kind, points in found.items()
    }
    file = figures.publish("saves", {"what": (__doc__ or "").splitlines()[0], **result})
    print(json.dumps(result, indent=1))
    print(file)


if __name__ == "__main__":
    main()
