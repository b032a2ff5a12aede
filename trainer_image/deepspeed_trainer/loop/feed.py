"""Micro-batches of one rank, from any place of the one order on, made by torch's own DataLoader.

The place travels with the data: what is recorded is what the data set was really asked for.  A
sample's own randomness (augmentation) is seeded by its place, so that it depends neither on the
number of workers nor on what was drawn before; the training process's random state stays as it was.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torch.utils.data.sampler import RandomSampler, SequentialSampler

from deepspeed_trainer.fingerprint.order import Layout, Order, sample_seed

_TAKEN_OVER: Final = (
    "collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn",
    "multiprocessing_context", "prefetch_factor", "persistent_workers", "pin_memory_device",
)  # fmt: skip
"""What the program's own DataLoader keeps of itself; its order and batch size are replaced."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set and how its batches are made."""

    dataset: Any
    options: dict[str, Any]
    """Arguments of the DataLoader."""


def describe_source(data: Any, micro_batch: int) -> Source:
    """Return the source behind a map-style data set or a DataLoader over one.

    Raises:
        TypeError: it has no length or no index, so no sample of it has a place.
        ValueError: the DataLoader says something that the order would silently replace.
    """
    loader = data if isinstance(data, DataLoader) else None
    dataset = data if loader is None else loader.dataset
    is_map = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not is_map:
        raise TypeError(
            f"Loop needs a data set with __getitem__ and __len__, {type(dataset).__name__} is none:"
            " a stream cannot be continued at a sample; docs/exact.md says what works for streams"
        )
    if loader is None:
        return Source(dataset, {})
    _refuse_own_order(loader, micro_batch)
    options = {name: getattr(loader, name) for name in _TAKEN_OVER if hasattr(loader, name)}
    if not options.get("pin_memory_device"):
        options.pop("pin_memory_device", None)  # naming it, even as empty, is deprecated
    return Source(dataset, options)


def _refuse_own_order(loader: DataLoader[Any], micro_batch: int) -> None:
    sampler = loader.sampler
    is_plain = type(sampler) in (RandomSampler, SequentialSampler) and not getattr(
        sampler, "replacement", False
    )
    if type(sampler).__name__ != "DistributedSampler" and not is_plain:
        raise ValueError(
            f"the DataLoader's sampler is a {type(sampler).__name__}, which Loop would replace:"
            " give the data set itself, in the order that you want, with shuffle=False"
        )
    if loader.batch_size != micro_batch:
        raise ValueError(
            f"the DataLoader's batch_size is {loader.batch_size}, the engine's"
            f" train_micro_batch_size_per_gpu is {micro_batch}: make them the same"
        )


def read(
    source: Source, order: Order, layout: Layout, *, rank: int, start: int, end: int
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield (the data set's indices, micro-batch) of one rank, from place `start` on.

    Only whole optimizer steps that end at or before place `end` are read.
    """
    options = {"collate_fn": None, **source.options}
    loader = DataLoader(
        _Placed(source.dataset, order),
        batch_sampler=_Places(layout, rank, start, end),
        # Its own generator: a loader that draws its seed would move the training's random state.
        generator=torch.Generator(),
        **{**options, "collate_fn": _WithIndices(options["collate_fn"])},
    )
    yield from loader


class _Places:
    """The places of one rank's micro-batches, as a DataLoader's batch sampler."""

    def __init__(self, layout: Layout, rank: int, start: int, end: int) -> None:
        self._layout = layout
        self._rank = rank
        self._start = start
        self._steps = max(0, end - start) // layout.step_samples

    def __len__(self) -> int:
        return self._steps * self._layout.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._steps):
            start = self._start + step * self._layout.step_samples
            for micro in range(self._layout.accumulation):
                yield list(self._layout.positions(start, micro, self._rank))


class _Placed(Dataset[tuple[int, Any]]):  # type: ignore[misc]
    """The data set, asked by places; answers (index, sample)."""

    def __init__(self, dataset: Any, order: Order) -> None:
        self._dataset = dataset
        self._order = order

    def __getitems__(self, places: Sequence[int]) -> list[tuple[int, Any]]:
        if get_worker_info() is not None:
            return [self._get(place) for place in places]
        with _kept_random_state():
            return [self._get(place) for place in places]

    def _get(self, place: int) -> tuple[int, Any]:
        index = self._order.sample_at(place)
        seed = sample_seed(self._order, place)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  what a data set's own code draws from
        torch.default_generator.manual_seed(seed)
        return index, self._dataset[index]


class _WithIndices:
    """The program's collate function beside the indices of what it collates."""

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self._collate = collate or torch.utils.data.default_collate

    def __call__(self, placed: list[tuple[int, Any]]) -> tuple[tuple[int, ...], Any]:
        indices, samples = zip(*placed, strict=True)
        return indices, self._collate(list(samples))


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Leave the random state of this process as it was."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
