"""Records of runs that never were: trained, killed, resumed and resized as told."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepspeed_trainer.fingerprint.order import Layout, Order
from deepspeed_trainer.fingerprint.record import (
    BEGINNING,
    Segment,
    Start,
    Step,
    hash_ids,
    to_bits,
)

ORDER = Order(seed=3, length=37)
PAIR = Layout(world_size=2, micro_batch=2, accumulation=2)


@dataclass(frozen=True)
class Attempt:
    """An attempt that resumed after step `resumed` and recorded steps up to `recorded`."""

    resumed: int
    recorded: int
    layout: Layout = PAIR


def record(attempts: Sequence[Attempt], order: Order = ORDER) -> list[Segment]:
    """Return what the ranks of these attempts write."""
    chains: dict[tuple[int, int], str] = {}
    world_size = attempts[0].layout.world_size
    segments = []
    for number, attempt in enumerate(attempts, start=1):
        size = attempt.layout.world_size
        for rank in range(size):
            known = chains.get((rank, attempt.resumed), BEGINNING)
            segment = _record_rank(attempt, order, rank, known if size == world_size else BEGINNING)
            segments.append(replace(segment, start=replace(segment.start, attempt=number)))
            chains |= {(rank, step.step): step.chain for step in segment.steps}
        world_size = size
    return segments


def _record_rank(attempt: Attempt, order: Order, rank: int, chain: str) -> Segment:
    layout = attempt.layout
    start = Start(
        attempt=1,
        start=1,
        rank=rank,
        layout=layout,
        order=order,
        step=attempt.resumed,
        position=attempt.resumed * layout.step_samples,
        chain=chain,
    )
    steps: list[Step] = []
    for number in range(attempt.resumed + 1, attempt.recorded + 1):
        position = (number - 1) * layout.step_samples
        places = layout.positions_of_step(position, rank)
        ids = [order.sample_at(place) for place in places]
        losses = [
            1 / number + sum(ids[i : i + layout.micro_batch]) / layout.micro_batch / 1000
            for i in range(0, len(ids), layout.micro_batch)
        ]
        step = Step(
            step=number,
            position=position,
            ids=hash_ids(ids),
            losses=tuple(to_bits(loss) for loss in losses),
            norm=to_bits(number / 7),
        ).chained(chain)
        chain = step.chain
        steps.append(step)
    return Segment(start, tuple(steps))


def rechained(segment: Segment) -> Segment:
    """Return a segment whose hashes fit its steps again, as a rank that did them would write."""
    chain, steps = segment.start.chain, []
    for step in segment.steps:
        steps.append(step.chained(chain))
        chain = steps[-1].chain
    return Segment(segment.start, tuple(steps))
