"""The batch of a run under another number of ranks: the global batch stays, its parts change.

DeepSpeed's rule is train_batch_size = micro batch x accumulation x ranks.  What a model learns per
step depends on the product alone, so this is what is kept.  Pure; part of the wall, because the
operator refuses an illegal size before it asks for a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepspeed_trainer.fields import Fields

TRAIN: Final = "train_batch_size"
MICRO: Final = "train_micro_batch_size_per_gpu"
ACCUMULATION: Final = "gradient_accumulation_steps"
MAX_BATCH: Final = 2**31
_SIZES_NAMED: Final = 12
"""A sentence names so many sizes at most."""


class NoFit(ValueError):
    """No micro batch and accumulation make the global batch with this number of ranks."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one optimizer step, and how they are dealt: micro x accumulation x ranks."""

    train: int
    micro: int
    accumulation: int

    @property
    def ranks(self) -> int:
        """Data-parallel ranks that the batch is dealt to."""
        return self.train // (self.micro * self.accumulation)

    def to_wire(self) -> dict[str, int]:
        """Return the JSON object."""
        return {"train": self.train, "micro": self.micro, "accumulation": self.accumulation}

    @classmethod
    def from_fields(cls, fields: Fields) -> "Batch":
        """Read the JSON object."""
        return cls(*(fields.whole(name, low=1, high=MAX_BATCH) for name in cls.__slots__))


def read_batch(config: Mapping[str, Any], ranks: int) -> Batch | None:
    """Return the batch that DeepSpeed makes of a configuration with so many data-parallel ranks.

    None where the configuration leaves it to a framework ("auto"), says nothing, or contradicts
    itself.
    """
    given = [config.get(name) for name in (TRAIN, MICRO, ACCUMULATION)]
    if any(value is not None and not _is_count(value) for value in given):
        return None
    train, micro, accumulation = given
    if train is None:
        if micro is None:
            return None
        train = micro * (accumulation or 1) * ranks
    if micro is None:
        micro = train // ((accumulation or 1) * ranks)
    if accumulation is None:
        accumulation = train // (micro * ranks) if micro else 0
    batch = Batch(train, micro, accumulation)
    return batch if micro * accumulation * ranks == train and train > 0 else None


def refit(batch: Batch, ranks: int) -> Batch:
    """Return the batch for another number of ranks: the same micro batch if that fits.

    If not, the largest smaller one: what fitted into a device's memory still does.

    Raises:
        NoFit: the ranks cannot share the global batch; the sentence names the sizes that can.
    """
    if batch.train % ranks:
        raise NoFit(
            f"{ranks} ranks cannot share a global batch of {batch.train} samples evenly;"
            f" {name_legal_ranks(batch.train, ranks)} can"
        )
    share = batch.train // ranks
    micro = max(size for size in range(1, min(batch.micro, share) + 1) if share % size == 0)
    return Batch(batch.train, micro, share // micro)


def write_batch(config: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    """Return the configuration with the three figures of a batch."""
    figures = {TRAIN: batch.train, MICRO: batch.micro, ACCUMULATION: batch.accumulation}
    return {**config, **figures}


def name_legal_ranks(train: int, near: int) -> str:
    """Return the numbers of ranks that can share a global batch, those around `near` if many."""
    legal = [ranks for ranks in range(1, min(train, 65_536) + 1) if train % ranks == 0]
    closest = sorted(legal, key=lambda ranks: abs(ranks - near))[:_SIZES_NAMED]
    *others, last = (str(ranks) for ranks in sorted(closest))
    return f"{', '.join(others)} or {last}" if others else last


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
