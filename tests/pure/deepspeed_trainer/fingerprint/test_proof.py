"""What was done is proven, and what was not done is found."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspeed_trainer.fields import ContractError
from deepspeed_trainer.fingerprint.order import Layout, Order
from deepspeed_trainer.fingerprint.proof import compare, join
from deepspeed_trainer.fingerprint.record import Segment, from_bits, read_segments, to_bits
from tests.pure.deepspeed_trainer.fingerprint.runs import ORDER, PAIR, Attempt, rechained, record

on_any_machine = settings(deadline=None, max_examples=50)
ALONE = Layout(world_size=1, micro_batch=4, accumulation=2)
FOUR = Layout(world_size=4, micro_batch=2, accumulation=1)


@st.composite
def killed_runs(draw: st.DrawFn) -> list[Attempt]:
    """Attempts that each continue from a step that some rank had recorded before."""
    attempts = [Attempt(0, draw(st.integers(1, 8)))]
    for _ in range(draw(st.integers(0, 5))):
        resumed = draw(st.integers(0, attempts[-1].recorded))
        attempts.append(Attempt(resumed, resumed + draw(st.integers(1, 8))))
    return attempts


@on_any_machine
@given(killed_runs())
def test_a_run_that_was_killed_is_proven_and_equals_the_undisturbed_one(
    attempts: list[Attempt],
) -> None:
    history = join(record(attempts))
    assert history.findings == []
    assert [done.number for done in history.steps] == list(range(1, attempts[-1].recorded + 1))
    assert history.samples == attempts[-1].recorded * PAIR.step_samples
    assert history.redone == history.redone_alike
    calm = join(record([Attempt(0, attempts[-1].recorded)]))
    assert compare(history, calm, tolerance=None) is None


@on_any_machine
@given(killed_runs(), st.randoms(use_true_random=False))
def test_the_order_in_which_records_are_found_does_not_matter(
    attempts: list[Attempt], dice: random.Random
) -> None:
    segments = record(attempts)
    shuffled = list(segments)
    dice.shuffle(shuffled)
    assert join(shuffled) == join(segments)


def test_the_first_step_that_differs_is_named() -> None:
    calm, other = record([Attempt(0, 9)]), record([Attempt(0, 9)])
    steps = list(other[1].steps)
    steps[5] = replace(steps[5], losses=(to_bits(0.5), steps[5].losses[1]))
    changed = join([other[0], rechained(Segment(other[1].start, tuple(steps)))])
    assert changed.findings == []
    difference = compare(join(calm), changed, tolerance=None)
    assert difference is not None
    assert difference.startswith("step 6 is the first that differs: rank 1 has loss")


def test_a_gradient_norm_that_differs_is_named() -> None:
    calm, other = record([Attempt(0, 3)]), record([Attempt(0, 3)])
    changed = [
        rechained(Segment(each.start, (*each.steps[:2], replace(each.steps[2], norm=to_bits(2.0)))))
        for each in other
    ]
    difference = compare(join(calm), join(changed), tolerance=None)
    assert difference is not None
    assert "step 3" in difference
    assert "gradient norm" in difference


@pytest.mark.parametrize("layout", [ALONE, FOUR])
def test_across_a_resize_samples_are_the_same_and_losses_within_a_tolerance(
    layout: Layout,
) -> None:
    resized = join(record([Attempt(0, 5), Attempt(4, 8, layout), Attempt(6, 9)]))
    calm = join(record([Attempt(0, 9)]))
    assert resized.findings == []
    assert compare(calm, resized, tolerance=1e-9) is None
    in_bits = compare(calm, resized, tolerance=None)
    assert in_bits is not None
    assert "step 5" in in_bits
    assert "compare with a tolerance" in in_bits


def test_a_loss_outside_the_tolerance_is_named() -> None:
    calm = join(record([Attempt(0, 9)]))
    off = record([Attempt(0, 4), Attempt(4, 9, ALONE)])
    steps = list(off[-1].steps)
    steps[1] = replace(steps[1], losses=(to_bits(9.0), to_bits(9.0)))
    off[-1] = rechained(Segment(off[-1].start, tuple(steps)))
    difference = compare(calm, join(off), tolerance=1e-3)
    assert difference is not None
    assert difference.startswith("step 6 is the first that differs: mean loss")


def test_other_samples_are_a_difference_whatever_the_tolerance() -> None:
    calm = join(record([Attempt(0, 3)]))
    other = join(record([Attempt(0, 3)], Order(seed=4, length=37)))
    assert "different orders" in str(compare(calm, other, tolerance=1.0))


def test_nothing_recorded_proves_nothing() -> None:
    assert join([]).findings == ["there is no record of any step"]
    assert compare(join([]), join([]), tolerance=None) == "there is nothing to compare"


def test_skipped_samples_are_found() -> None:
    """As by a program that resumes its weights and lets its data begin one step later."""
    segments = record([Attempt(0, 4), Attempt(2, 6)])
    moved = [
        each
        if each.start.attempt == 1
        else rechained(
            Segment(
                replace(each.start, position=each.start.position + 8),
                tuple(replace(step, position=step.position + 8) for step in each.steps),
            )
        )
        for each in segments
    ]
    findings = join(moved).findings
    assert "attempt 2 continues after step 2 at sample 24; that step ended at 16" in findings
    assert "step 3 skips samples: it begins at sample 24, 16 was due" in findings


def test_repeated_samples_are_found() -> None:
    segments = record([Attempt(0, 4), Attempt(2, 6)])
    moved = [
        each
        if each.start.attempt == 1
        else rechained(
            Segment(
                replace(each.start, position=0),
                tuple(replace(step, position=step.position - 16) for step in each.steps),
            )
        )
        for each in segments
    ]
    assert any("repeats samples" in each for each in join(moved).findings)


def test_samples_that_are_not_those_of_the_order_are_found() -> None:
    first, second = record([Attempt(0, 3)])
    steps = (first.steps[0], replace(first.steps[1], ids="0" * 16), first.steps[2])
    findings = join([rechained(Segment(first.start, steps)), second]).findings
    assert findings == ["step 2: rank 0 was given other samples than the order says"]


def test_what_lies_with_checkpoints_fills_what_a_file_lost() -> None:
    """As where records go to a bucket now and then, and the pod was lost in between."""
    first, second = record([Attempt(0, 6)])
    lost = [Segment(first.start, first.steps[:2]), second]
    parts = [Segment(first.start, first.steps[at : at + 2]) for at in (0, 2, 4)]
    assert join([*lost, *parts]) == join([first, second])
    assert len(join(lost).steps) == 2


def test_two_records_that_contradict_each_other_are_found() -> None:
    first, second = record([Attempt(0, 2)])
    other = (first.steps[0], replace(first.steps[1], losses=(to_bits(0.0),) * 2))
    findings = join([first, second, rechained(Segment(first.start, other))]).findings
    assert findings == ["attempt 1 has two records of rank 0 that are not the same"]


def test_a_gap_between_attempts_is_found() -> None:
    segments = [each for each in record([Attempt(0, 6), Attempt(6, 8)]) if each.start.attempt == 2]
    assert join(segments).findings == [
        "attempt 2 continues after step 6, and there is a record up to step 0 alone"
    ]


def test_a_run_that_began_from_another_ones_checkpoint_proves_its_own_steps() -> None:
    """Its first attempt says so; what a later one continues from has to be its own."""
    attempts = [Attempt(0, 6), Attempt(6, 8), Attempt(6, 9), Attempt(8, 12)]
    earlier = {1: 9, 2: 1, 3: 2, 4: 3}
    own = [
        replace(each, start=replace(each.start, attempt=earlier[each.start.attempt]))
        for each in record(attempts)
        if each.start.attempt > 1
    ]
    history = join(own)
    assert (history.findings, history.before, history.last) == ([], 6, 12)
    assert [done.number for done in history.steps] == list(range(7, 13))
    assert history.redone == 2 + 1
    calm = join(record([Attempt(0, 12)]))
    assert compare(history, calm, tolerance=None) is None
    assert compare(calm, join(record([Attempt(0, 6)])), tolerance=None) is None
    assert compare(history, join(record([Attempt(0, 6)])), tolerance=None) is not None


@pytest.mark.parametrize(
    ("adopted", "attempt", "before"),
    [(True, 1, 6), (True, 3, 6), (False, 1, 0), (None, 1, 6), (None, 3, 0)],
)
def test_what_a_record_says_of_another_run_counts_and_not_its_attempt(
    adopted: bool | None, attempt: int, before: int
) -> None:
    """An attempt that took no step leaves no record; older records say nothing."""
    segments = [
        replace(each, start=replace(each.start, attempt=attempt, adopted=adopted))
        for each in record([Attempt(6, 8)])
    ]
    history = join(segments)
    assert history.before == before
    assert bool(history.findings) == (before == 0)


def test_ranks_that_do_not_agree_on_whose_save_they_took_are_found() -> None:
    first, second = record([Attempt(6, 8)])
    other = replace(second, start=replace(second.start, adopted=True))
    assert join([first, other]).findings == [
        "the ranks of attempt 1 did not start from the same state"
    ]


def test_a_record_tells_whose_save_was_taken_and_an_older_one_does_not() -> None:
    start = record([Attempt(6, 8)])[0].start
    for adopted in (True, False, None):
        line = replace(start, adopted=adopted).to_line()
        assert read_segments(line, "x")[0].start.adopted is adopted
    older = {k: v for k, v in json.loads(start.to_line()).items() if k != "adopted"}
    assert read_segments(json.dumps(older), "x")[0].start == start


def test_a_run_that_began_anew_at_another_sample_of_the_other_run_is_found() -> None:
    first, again = record([Attempt(6, 8)]), record([Attempt(6, 9)])
    moved = [
        replace(each, start=replace(each.start, attempt=2, position=each.start.position + 1))
        for each in again
    ]
    assert "attempt 2 begins at another sample" in join([*first, *moved]).findings[0]


def test_a_missing_rank_is_found() -> None:
    assert join(record([Attempt(0, 3)])[:1]).findings == ["attempt 1 has no record of rank 1"]


def test_an_attempt_that_continues_from_something_else_is_found() -> None:
    segments = record([Attempt(0, 4), Attempt(2, 6)])
    foreign = rechained(Segment(replace(segments[2].start, chain="f" * 32), segments[2].steps))
    findings = join([*segments[:2], foreign, segments[3]]).findings
    assert findings == ["attempt 2: rank 0 continues from a step 2 that is not the recorded one"]


def test_a_record_that_was_changed_is_found() -> None:
    first, second = record([Attempt(0, 3)])
    steps = (first.steps[0], replace(first.steps[1], losses=(to_bits(0.0),) * 2), first.steps[2])
    findings = join([Segment(first.start, steps), second]).findings
    assert findings == ["attempt 1, rank 0: the record of step 2 was changed after it was written"]


def test_a_step_that_is_missing_in_a_record_is_found() -> None:
    first, second = record([Attempt(0, 3)])
    steps = (first.steps[0], first.steps[2])
    findings = join([rechained(Segment(first.start, steps)), second]).findings
    assert any("step 3 is recorded where step 2 was due" in each for each in findings)


def test_an_attempt_without_a_whole_step_takes_nothing_back() -> None:
    """One rank recorded a step, the other was killed in it; the next attempt found a later save."""
    segments = record([Attempt(0, 6), Attempt(4, 5), Attempt(6, 8)])
    segments[3] = Segment(segments[3].start, ())
    history = join(segments)
    assert history.findings == []
    assert [done.number for done in history.steps] == list(range(1, 9))


def test_steps_that_came_out_differently_when_done_again_are_counted() -> None:
    segments = record([Attempt(0, 5), Attempt(2, 6)])
    steps = (replace(segments[2].steps[0], losses=(to_bits(0.0),) * 2), *segments[2].steps[1:])
    segments[2] = rechained(Segment(segments[2].start, steps))
    history = join(segments)
    assert history.findings == []
    assert (history.redone, history.redone_alike) == (3, 2)


@on_any_machine
@given(killed_runs())
def test_what_is_written_is_read(attempts: list[Attempt]) -> None:
    segments = record(attempts)
    for rank in (0, 1):
        own = [each for each in segments if each.start.rank == rank]
        lines = [line for each in own for line in (each.start, *each.steps)]
        text = "".join(line.to_line() + "\n" for line in lines)
        assert read_segments(text, "rank") == own


def test_a_line_that_a_kill_cut_is_left_out() -> None:
    segment, other = record([Attempt(0, 3), Attempt(2, 4)])[::2]
    lines = [line.to_line() for each in (segment, other) for line in (each.start, *each.steps)]
    lines[3] = lines[3][:20]
    cut = Segment(segment.start, segment.steps[:2])
    assert read_segments("\n".join(lines), "rank") == [cut, other]
    assert read_segments("\n".join(lines[:4]), "rank") == [cut]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"kind": "step"', "rank:2 is not JSON"),
        ('{"kind": "pause"}', "rank:2.kind must be one of start, step"),
    ],
)
def test_any_other_line_that_makes_no_sense_is_an_error(line: str, sentence: str) -> None:
    (segment, _) = record([Attempt(0, 1)])
    text = "\n".join([segment.start.to_line(), line, segment.steps[0].to_line()])
    with pytest.raises(ContractError, match=sentence):
        read_segments(text, "rank")


@on_any_machine
@given(st.floats())
def test_bits_are_the_number(value: float) -> None:
    assert to_bits(from_bits(to_bits(value))) == to_bits(value)


def test_the_fixture_itself_is_sound() -> None:
    assert join(record([Attempt(0, 12)], ORDER)).findings == []
