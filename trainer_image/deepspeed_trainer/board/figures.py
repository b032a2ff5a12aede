"""How far the program is, in the figures of rank 0. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepspeed_trainer.progress import MAX_METRICS, Metric


@dataclass(slots=True)
class Figures:
    """Rank 0's figures; they stay when the ranks start again."""

    total_steps: int | None = None
    epoch: int | None = None
    step: int = 0
    first_step: int | None = None
    loss: str | None = None
    samples_per_second: str | None = None
    metrics: dict[str, str] = field(default_factory=dict)

    def take_step(self, fact: Mapping[str, Any], first_step: int | None) -> None:
        """Take a `step` fact; `first_step` is the first one of the rank's round."""
        self.step, self.first_step = int(fact["done"]), first_step or self.first_step
        self.loss = fact.get("loss") or self.loss
        self.samples_per_second = fact.get("rate") or self.samples_per_second

    def take_metrics(self, metrics: Mapping[str, str]) -> None:
        """Take figures that the program reported; the newest twenty names are kept."""
        for name, value in metrics.items():
            self.metrics.pop(name, None)
            self.metrics[name] = value
            if name.rsplit("/", 1)[-1].lower() == "epoch":
                self.epoch = _to_whole(value)
        while len(self.metrics) > MAX_METRICS:
            del self.metrics[next(iter(self.metrics))]

    def describe(self) -> dict[str, Any]:
        """Return them as fields of Progress."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "metrics": tuple(Metric(*item) for item in self.metrics.items())}


def _to_whole(value: str) -> int | None:
    try:
        return max(0, int(float(value)))
    except (ValueError, OverflowError):
        return None
