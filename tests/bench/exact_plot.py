"""Draw the figures of `tests.bench.exact`: the killed and the resized run over undisturbed ones.

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
    """Write one picture: loss and gradient norm of the killed run, loss of the resized one."""
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(8, 6.6))
    calm, other = found["curves"]["undisturbed"], found["curves"]["other seed"]
    for axis, name, label in zip(axes, ("loss", "norm"), ("loss", "gradient norm"), strict=True):
        steps = range(1, len(calm[name]) + 1)
        axis.plot(steps, other[name], color="0.8", lw=1, label="another seed")
        draw_over(axis, calm[name], found["segments"]["killed"], name, "killed, by attempt")
        axis.set_ylabel(label)
    plain = found["curves"]["no dropout"]["loss"]
    draw_over(axes[2], plain, found["segments"]["resized"], "loss", "resized, by attempt")
    axes[2].set_ylabel("loss")
    for axis in (axes[0], axes[2]):
        axis.legend(frameon=False, ncols=3, loc="upper right")
    axes[2].set_xlabel("optimizer step")
    sizes = ", ".join(str(size) for size in found["verdict"]["resized"]["ranks"])
    axes[2].set_title(f"without dropout, with {sizes} ranks", loc="left")
    kills = sum(found["verdict"]["kills"].values())
    axes[0].set_title(f"MiniLM, ZeRO-3 on two ranks, {kills} kills", loc="left")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def draw_over(axis: Any, calm: list[float], parts: list[Any], name: str, word: str) -> None:
    """Draw every attempt of a run over the undisturbed one."""
    steps = range(1, len(calm) + 1)
    axis.plot(steps, calm, color="0.35", lw=4, alpha=0.45, label="undisturbed")
    for number, part in enumerate(parts):
        done = range(part["from"] + 1, part["from"] + 1 + len(part[name]))
        label = word if number == 0 else None
        axis.plot(
            done, part[name], color=f"C{number % 10}", lw=1.2, marker="o", ms=2.2, label=label
        )
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
