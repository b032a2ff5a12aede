"""The one order of samples that all ranks read from: a pure function of seed, epoch and place.

It knows neither ranks nor attempts, so a run that was resumed or resized reads on from where it
was.  The order is a keyed permutation (a Feistel network that walks on while it is outside the
data set), so that the sample at any place is known at once and nothing of the data set's size is
kept; it is ours because the shuffles of torch, numpy and Python may change with their release.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

_ROUNDS: Final = 6
"""Four make a Feistel network look random; small data sets have few bits a side and want more."""


@dataclass(frozen=True, slots=True)
class Order:
    """The samples of a data set, epoch after epoch, as one endless list."""

    seed: int
    length: int
    """Samples of the data set."""
    is_shuffled: bool = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"the data set has {self.length} samples; it needs at least one")

    def sample_at(self, position: int) -> int:
        """Return the data set's index of the sample at a place in the endless list."""
        epoch, place = divmod(position, self.length)
        if not self.is_shuffled:
            return place
        key = self._key(epoch)
        half = max(1, ((self.length - 1).bit_length() + 1) // 2)
        place = _permute(key, place, half)
        while place >= self.length:
            place = _permute(key, place, half)
        return place

    def _key(self, epoch: int) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{epoch}".encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of one optimizer step are dealt to ranks and micro-batches."""

    world_size: int
    micro_batch: int
    """Samples of one rank in one forward pass."""
    accumulation: int
    """Micro-batches of an optimizer step."""

    @property
    def step_samples(self) -> int:
        """Samples of one optimizer step over all ranks."""
        return self.world_size * self.micro_batch * self.accumulation

    def positions(self, start: int, micro: int, rank: int) -> range:
        """Return the places of one rank's micro-batch in the step that begins at `start`."""
        first = start + (micro * self.world_size + rank) * self.micro_batch
        return range(first, first + self.micro_batch)

    def positions_of_step(self, start: int, rank: int) -> list[int]:
        """Return the places of all micro-batches of one rank in a step."""
        micros = range(self.accumulation)
        return [place for micro in micros for place in self.positions(start, micro, rank)]


def sample_seed(order: Order, position: int) -> int:
    """Return 64 bits that depend on the order's seed and the sample's place alone."""
    text = f"{order.seed}/sample/{position}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _permute(key: bytes, value: int, half: int) -> int:
    """Return the image of a number of 2 x `half` bits."""
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for turn in range(_ROUNDS):
        text = turn.to_bytes(1) + right.to_bytes(8)
        mixed = int.from_bytes(hashlib.blake2b(text, salt=key, digest_size=8).digest())
        left, right = right, left ^ (mixed & mask)
    return left << half | right
