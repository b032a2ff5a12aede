"""From what all ranks of all attempts wrote to what is proven, and where two runs part. Pure.

A run's history is what its last weights were trained on: of an attempt that was killed only the
steps up to the save that the next one continued from.  What is found wrong is a sentence; nothing
found means: every sample of the history was given to a rank exactly once, in the one order.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deepspeed_trainer.fingerprint.order import Layout, Order
from deepspeed_trainer.fingerprint.record import (
    BEGINNING,
    Segment,
    Start,
    Step,
    from_bits,
    hash_ids,
)

MOST_FINDINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Done:
    """One step of the history, on all ranks."""

    start: Start
    """That of rank 0 in the attempt that did it."""
    ranks: tuple[Step, ...]

    @property
    def number(self) -> int:
        """The optimizer step."""
        return self.ranks[0].step

    @property
    def losses(self) -> list[tuple[str, ...]]:
        """The bits of all losses, by rank."""
        return [step.losses for step in self.ranks]

    @property
    def mean_loss(self) -> float:
        """Mean over ranks and micro-batches."""
        return math.fsum(step.mean_loss for step in self.ranks) / len(self.ranks)

    @property
    def norm(self) -> float:
        """Gradient norm over all ranks; nan where there is none."""
        return from_bits(self.ranks[0].norm)


@dataclass(slots=True)
class History:
    """What a run was trained on, and what is wrong with it."""

    steps: list[Done] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    before: int = 0
    """Steps that another run had done, where this one began from its checkpoint."""
    redone: int = 0
    """Steps that were lost by a kill and done again."""
    redone_alike: int = 0
    """How many of those had the same losses and gradient norms, bit by bit."""

    @property
    def last(self) -> int:
        """The number of the last step."""
        return self.before + len(self.steps)

    @property
    def samples(self) -> int:
        """Samples of all steps and ranks."""
        return sum(done.start.layout.step_samples for done in self.steps)

    def complain(self, sentence: str) -> None:
        """Add a finding."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(sentence)


def join(segments: Iterable[Segment]) -> History:
    """Return the history of a run from the segments of all its ranks and attempts."""
    history = History()
    starts: dict[tuple[int, int], dict[int, Segment]] = {}
    for segment in segments:
        start = segment.start
        ranks = starts.setdefault((start.attempt, start.start), {})
        known = ranks.get(start.rank)
        ranks[start.rank] = segment if known is None else _unite(history, known, segment)
    if not starts:
        history.complain("there is no record of any step")
    for _, ranks in sorted(starts.items()):
        if any(segment.steps for segment in ranks.values()):
            _add(history, ranks)
    _check_samples(history)
    return history


def compare(one: History, other: History, *, tolerance: float | None) -> str | None:
    """Return a sentence about the first step in which two runs differ, or None.

    Samples must be the same.  Losses and gradient norms must be the same bit by bit, or with a
    `tolerance` differ by at most that share; the number of ranks may then differ, too.
    """
    first = max(one.before, other.before)
    steps = [history.steps[first - history.before :] for history in (one, other)]
    for left, right in zip(*steps, strict=False):
        difference = _difference(left, right, tolerance)
        if difference is not None:
            return f"step {left.number} is the first that differs: {difference}"
    if not all(steps):
        return "there is nothing to compare"
    return None


def _unite(history: History, one: Segment, other: Segment) -> Segment:
    """Return what a rank's file and its parts of checkpoints say together."""
    steps = {step.step: step for step in one.steps}
    differ = [step.step for step in other.steps if steps.setdefault(step.step, step) != step]
    if differ or one.start != other.start:
        history.complain(
            f"{_name(one.start)} has two records of rank {one.start.rank} that are not the same"
        )
    return Segment(one.start, tuple(steps[number] for number in sorted(steps)))


def _add(history: History, ranks: Mapping[int, Segment]) -> None:
    """Put an attempt's steps in the place of those that it did again."""
    first = next(iter(ranks.values())).start
    name, layout = _name(first), first.layout
    absent = sorted(set(range(layout.world_size)) - set(ranks))
    if absent:
        history.complain(f"{name} has no record of rank {absent[0]}")
        return
    ordered = [ranks[rank] for rank in range(layout.world_size)]
    if any(_common(segment.start) != _common(first) for segment in ordered):
        history.complain(f"the ranks of {name} did not start from the same state")
        return
    known = first.step
    # A record that says nothing of it can only be trusted where nothing of its own run was there.
    is_adopted = first.attempt == 1 if first.adopted is None else first.adopted
    if not history.starts and is_adopted:
        history.before = known
    if not history.before <= known <= history.last:
        history.complain(
            f"{name} continues after step {known}, and there is a record up to step "
            f"{history.last} alone"
        )
        return
    done = [
        Done(ordered[0].start, steps)
        for steps in zip(*(segment.steps for segment in ordered), strict=False)
    ]
    if not done:
        return  # no step was done by all ranks: what the attempt began left nothing behind
    _check_link(history, [segment.start for segment in ordered])
    known -= history.before
    lost = history.steps[known:]
    again = list(zip(lost, done, strict=False))
    history.redone += len(again)
    history.redone_alike += sum(
        old.losses == new.losses and old.ranks[0].norm == new.ranks[0].norm for old, new in again
    )
    history.steps[known:] = done
    history.starts.append(ordered[0].start)
    _check_chains(history, ordered)


def _check_link(history: History, starts: Sequence[Start]) -> None:
    """Complain when an attempt does not continue what the history holds."""
    first = starts[0]
    if first.step == history.before:
        if first.step:  # what came before is the other run's to prove
            if history.starts and history.starts[0].position != first.position:
                history.complain(f"{_name(first)} begins at another sample than the first start")
            return
        if first.position or any(start.chain != BEGINNING for start in starts):
            history.complain(f"{_name(first)} claims a past before its first step")
        return
    before = history.steps[first.step - history.before - 1]
    if first.position != before.ranks[0].position + before.start.layout.step_samples:
        history.complain(
            f"{_name(first)} continues after step {first.step} at sample {first.position}; that "
            f"step ended at {before.ranks[0].position + before.start.layout.step_samples}"
        )
    if before.start.order != first.order:
        history.complain(f"{_name(first)} reads its samples in another order than the steps before")
    if first.layout.world_size != before.start.layout.world_size:
        return  # a rank of another world has no predecessor
    for start, step in zip(starts, before.ranks, strict=True):
        if start.chain != step.chain:
            history.complain(
                f"{_name(first)}: rank {start.rank} continues from a step {first.step} that is "
                "not the recorded one"
            )


def _check_chains(history: History, ordered: Sequence[Segment]) -> None:
    for segment in ordered:
        chain, number = segment.start.chain, segment.start.step
        for step in segment.steps:
            number += 1
            if step.step != number:
                history.complain(
                    f"{_name(segment.start)}, rank {segment.start.rank}: step {step.step} is "
                    f"recorded where step {number} was due"
                )
                break
            chain = step.chained(chain).chain
            if step.chain != chain:
                history.complain(
                    f"{_name(segment.start)}, rank {segment.start.rank}: the record of step "
                    f"{number} was changed after it was written"
                )
                break


def _check_samples(history: History) -> None:
    """Complain when samples are skipped, repeated, or not those that the order says."""
    due = history.starts[0].position if history.before else 0
    for done in history.steps:
        layout, order = done.start.layout, done.start.order
        found = {step.position for step in done.ranks}
        if found != {due}:
            text = ", ".join(str(position) for position in sorted(found))
            what = "skips" if min(found) > due else "repeats"
            history.complain(
                f"step {done.number} {what} samples: it begins at sample {text}, {due} was due"
            )
            return
        for rank, step in enumerate(done.ranks):
            if step.ids != _wanted_ids(order, layout, due, rank):
                history.complain(
                    f"step {done.number}: rank {rank} was given other samples than the order says"
                )
                return
        due += layout.step_samples


def _wanted_ids(order: Order, layout: Layout, start: int, rank: int) -> str:
    places = layout.positions_of_step(start, rank)
    return hash_ids(order.sample_at(place) for place in places)


def _difference(left: Done, right: Done, tolerance: float | None) -> str | None:
    if left.start.order != right.start.order:
        return "the runs read their samples in different orders"
    one, other = left.start.layout, right.start.layout
    places = [(done.ranks[0].position, done.start.layout.step_samples) for done in (left, right)]
    if places[0] != places[1]:
        return "{}+{} samples against {}+{}".format(*places[0], *places[1])
    if one == other and any(a.ids != b.ids for a, b in zip(left.ranks, right.ranks, strict=True)):
        return "a rank was given other samples"
    if tolerance is None:
        return _difference_in_bits(left, right)
    for name, a, b in (
        ("mean loss", left.mean_loss, right.mean_loss),
        ("gradient norm", left.norm, right.norm),
    ):
        if not (math.isclose(a, b, rel_tol=tolerance) or (math.isnan(a) and math.isnan(b))):
            return f"{name} {a:.9g} against {b:.9g}"
    return None


def _difference_in_bits(left: Done, right: Done) -> str | None:
    if left.start.layout != right.start.layout:
        return "its samples are dealt to ranks in another way; compare with a tolerance"
    for rank, (a, b) in enumerate(zip(left.ranks, right.ranks, strict=True)):
        if a.losses != b.losses:
            return f"rank {rank} has loss {a.mean_loss:.9g} against {b.mean_loss:.9g}"
        if a.norm != b.norm:
            return f"gradient norm {from_bits(a.norm):.9g} against {from_bits(b.norm):.9g}"
    return None


def _common(start: Start) -> tuple[object, ...]:
    return (start.layout, start.order, start.step, start.position, start.adopted)


def _name(start: Start) -> str:
    return f"attempt {start.attempt}" + (f", start {start.start}" if start.start > 1 else "")
