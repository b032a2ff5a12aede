"""Draw the figures of `tests.bench.exact`: losses of the killed run over those of the undisturbed.

It needs matplotlib alone: `python tests/bench/exact_plot.py exact.json exact.svg`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "exact", "font.size": 9})
from matplotlib import pyplot as plt  # noqa: E402  after the backend was chosen


def draw(found: dict[str, Any], out: Path) -> None:
    """Write one picture: loss above, gradient norm below."""
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 4.6))
    calm, other = found["curves"]["undisturbed"], found["curves"]["other seed"]
    for axis, name, label in zip(axes, ("loss", "norm"), ("loss", "gradient norm"), strict=True):
        steps = range(1, len(calm[name]) + 1)
        axis.plot(steps, other[name], color="0.8", lw=1, label="another seed")
        axis.plot(steps, calm[name], color="0.35", lw=4, alpha=0.45, label="undisturbed")
        for number, part in enumerate(found["segments"]):
            done = range(part["from"] + 1, part["from"] + 1 + len(part[name]))
            colour, word = f"C{number % 10}", "killed, by attempt" if number == 0 else None
            axis.plot(done, part[name], color=colour, lw=1.2, marker="o", ms=2.2, label=word)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, ncols=3, loc="upper right")
    axes[1].set_xlabel("optimizer step")
    kills = sum(found["verdict"]["kills"].values())
    axes[0].set_title(f"MiniLM, ZeRO-3 on two ranks, {kills} kills", loc="left")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
