"""Equally many batches for all ranks, out of streams that may differ in length.

With ZeRO-3 every forward gathers weights from all ranks, so a rank with one batch more waits for
ever.  Here all ranks stop before the first optimizer step that one of them cannot fill.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")


def equal_batches(engine: Any, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield a rank's batches, as many on each rank as all of them can fill whole steps with.

    It asks the other ranks once per optimizer step, which waits for the device; data of a known
    length needs none of this in a Loop.
    """
    accumulation = int(engine.gradient_accumulation_steps())
    source = iter(batches)
    while True:
        own = list(islice(source, accumulation))
        least = torch.tensor(len(own), dtype=torch.int64, device=engine.device)
        torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
        if int(least) < accumulation:
            return
        yield from own
