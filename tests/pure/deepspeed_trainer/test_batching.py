"""The global batch stays whatever the number of ranks; what cannot be is refused with the way out.

The rule by which a configuration becomes a batch is DeepSpeed's, read in its runtime/config.py.
"""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepspeed_trainer.batching import (
    ACCUMULATION,
    MICRO,
    TRAIN,
    Batch,
    NoFit,
    read_batch,
    refit,
    write_batch,
)
from deepspeed_trainer.fields import ContractError, Fields

COUNTS = st.integers(min_value=1, max_value=64)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    micro, accumulation, ranks = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    return Batch(micro * accumulation * ranks, micro, accumulation)


@given(batches(), COUNTS)
def test_the_global_batch_is_kept_or_the_size_refused(batch: Batch, ranks: int) -> None:
    if batch.train % ranks:
        with pytest.raises(NoFit):
            refit(batch, ranks)
        return
    fitted = refit(batch, ranks)
    assert fitted.train == batch.train == fitted.micro * fitted.accumulation * ranks
    assert 1 <= fitted.micro <= batch.micro
    assert fitted.ranks == ranks


@given(batches(), COUNTS)
def test_the_micro_batch_shrinks_only_where_it_must_and_as_little_as_it_can(
    batch: Batch, ranks: int
) -> None:
    assume(batch.train % ranks == 0)
    fitted, share = refit(batch, ranks), batch.train // ranks
    larger = range(fitted.micro + 1, batch.micro + 1)
    assert not any(share % micro == 0 for micro in larger)


@given(batches(), st.lists(COUNTS, max_size=4))
def test_there_and_back_is_the_same_global_batch(batch: Batch, sizes: list[int]) -> None:
    now = batch
    for ranks in (size for size in sizes if batch.train % size == 0):
        now = refit(now, ranks)
    assert refit(now, batch.ranks).train == batch.train


@given(batches(), COUNTS)
def test_every_size_that_a_refusal_names_is_legal(batch: Batch, ranks: int) -> None:
    assume(batch.train % ranks)
    with pytest.raises(NoFit) as refused:
        refit(batch, ranks)
    named = str(refused.value).rpartition("evenly; ")[2].removesuffix(" can")
    sizes = [int(word) for word in named.replace(" or ", ", ").split(", ")]
    assert sizes
    assert all(refit(batch, size).train == batch.train for size in sizes)


@given(batches(), st.sampled_from([(TRAIN, MICRO), (MICRO, ACCUMULATION), (TRAIN, ACCUMULATION)]))
def test_any_two_figures_and_the_ranks_make_the_third(batch: Batch, named: tuple[str, str]) -> None:
    whole = write_batch({}, batch)
    assert read_batch({name: whole[name] for name in named}, batch.ranks) == batch


def test_a_refusal_names_the_legal_sizes() -> None:
    with pytest.raises(NoFit, match=r"3 ranks cannot share .* of 8 .* 1, 2, 4 or 8 can"):
        refit(Batch(8, 2, 2), 3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({TRAIN: 8}, Batch(8, 4, 1)),
        ({MICRO: 3}, Batch(6, 3, 1)),
        ({TRAIN: 8, MICRO: 4, ACCUMULATION: 1, "zero_optimization": {}}, Batch(8, 4, 1)),
        ({TRAIN: "auto", MICRO: 4}, None),
        ({TRAIN: 8, MICRO: 4, ACCUMULATION: "auto"}, None),
        ({ACCUMULATION: 2}, None),
        ({TRAIN: 9}, None),
        ({TRAIN: 8, MICRO: 3}, None),
        ({TRAIN: 1}, None),
        ({TRAIN: True}, None),
        ({}, None),
    ],
)
def test_a_configuration_says_its_batch_or_leaves_it_to_others(
    config: dict[str, object], expected: Batch | None
) -> None:
    assert read_batch(config, 2) == expected


def test_a_batch_crosses_the_wall_and_no_nonsense_does() -> None:
    batch = Batch(8, 2, 2)
    assert Batch.from_fields(Fields(batch.to_wire(), "batch")) == batch
    with pytest.raises(ContractError, match=r"batch\.micro"):
        Batch.from_fields(Fields({**batch.to_wire(), "micro": 0}, "batch"))
