"""The one order gives every sample once an epoch, to whoever asks and however many they are."""

from hypothesis import given, settings
from hypothesis import strategies as st

from deepspeed_trainer.fingerprint.order import Layout, Order, sample_seed

on_any_machine = settings(deadline=None, max_examples=50)
lengths = st.integers(1, 300)
seeds = st.integers(0, 2**32)
layouts = st.builds(
    Layout,
    world_size=st.integers(1, 8),
    micro_batch=st.integers(1, 5),
    accumulation=st.integers(1, 4),
)


@on_any_machine
@given(seeds, lengths, st.integers(0, 5), st.booleans())
def test_every_epoch_holds_every_sample_once(
    seed: int, length: int, epoch: int, is_shuffled: bool
) -> None:
    order = Order(seed, length, is_shuffled)
    places = range(epoch * length, (epoch + 1) * length)
    assert sorted(order.sample_at(place) for place in places) == list(range(length))


@on_any_machine
@given(layouts, st.integers(0, 10_000))
def test_the_ranks_share_a_steps_samples_and_none_is_left(layout: Layout, start: int) -> None:
    dealt = [
        place
        for rank in range(layout.world_size)
        for place in layout.positions_of_step(start, rank)
    ]
    assert sorted(dealt) == list(range(start, start + layout.step_samples))


def test_the_order_is_this_one_on_every_machine_and_in_every_release() -> None:
    """A run that goes on under a newer release reads on in the same order."""
    first, second = [2, 4, 6, 5, 9, 8, 0, 3, 1, 7], [9, 6, 5, 4, 8, 2, 1, 7, 0, 3]
    assert [Order(7, 10).sample_at(place) for place in range(20)] == first + second
    assert Order(7, 10**12).sample_at(3 * 10**12 + 5) == 116003399008
    assert sample_seed(Order(7, 10), 12) == 18220614669539775584


def test_epochs_and_seeds_differ() -> None:
    first = [Order(1, 100).sample_at(place) for place in range(200)]
    assert first[:100] != first[100:]
    assert first != [Order(2, 100).sample_at(place) for place in range(200)]
    assert first[:100] != list(range(100))


def test_without_shuffling_the_order_is_the_data_sets_own() -> None:
    assert [Order(1, 3, is_shuffled=False).sample_at(p) for p in range(5)] == [0, 1, 2, 0, 1]
