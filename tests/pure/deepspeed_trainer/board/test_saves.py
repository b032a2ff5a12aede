"""A save counts when all ranks brought it; a slow storage loses the saves between, never order."""

from hypothesis import given
from hypothesis import strategies as st

from deepspeed_trainer.board.saves import OpenSaves
from deepspeed_trainer.manifest import ManifestFile
from tests.pure.deepspeed_trainer.makers import a_closed_save

FILES = (ManifestFile("a", 1, "0" * 64, 0),)


def held_by_both(*numbers: int) -> OpenSaves:
    saves = OpenSaves(2)
    for number in numbers:
        for rank in (0, 1):
            assert saves.note_closed(rank, a_closed_save(number)) is None
    return saves


def test_a_save_that_one_rank_alone_holds_is_neither_asked_for_nor_waited_for() -> None:
    saves = OpenSaves(2)
    saves.note_closed(0, a_closed_save())
    assert (saves.choose_upload(), saves.newest, saves.is_waiting) == (0, 0, False)


def test_the_last_rank_completes_it() -> None:
    saves = held_by_both(1)
    assert saves.choose_upload() == 1
    assert saves.note_brought(0, 1, FILES) is None
    assert saves.is_waiting
    save = saves.note_brought(1, 1, FILES)
    assert save is not None
    assert set(save.files) == {0, 1}
    assert (saves.choose_upload(), saves.is_waiting) == (0, False)


def test_one_is_on_its_way_and_of_those_that_wait_the_newest_is_next() -> None:
    saves = held_by_both(1)
    assert saves.choose_upload() == 1
    for number in (2, 3, 4):
        for rank in (0, 1):
            saves.note_closed(rank, a_closed_save(number))
    assert (saves.choose_upload(), saves.newest, saves.replaced) == (1, 4, 0)
    for rank in (0, 1):
        saves.note_brought(rank, 1, FILES)
    assert (saves.choose_upload(), saves.replaced) == (4, 2)


def test_a_save_given_up_is_never_complete_and_the_next_one_is_asked_for() -> None:
    saves = held_by_both(1, 2)
    saves.give_up(2)
    assert saves.note_brought(0, 2, FILES) is None
    assert saves.choose_upload() == 1
    saves.give_up(1)
    assert saves.note_closed(1, a_closed_save(1)) is None
    assert (saves.choose_upload(), saves.is_waiting) == (0, False)


def test_ranks_that_save_under_different_names_are_told_apart() -> None:
    saves = OpenSaves(2)
    saves.note_closed(0, a_closed_save(1, tag="0.693"))
    refusal = saves.note_closed(1, a_closed_save(1, tag="0.691"))
    assert refusal is not None
    assert "rank 1 has tag '0.691', others have '0.693'" in refusal
    assert not saves.is_waiting


def test_what_ranks_that_ended_will_never_hold_is_forgotten() -> None:
    saves = held_by_both(1)
    saves.note_closed(0, a_closed_save(2))
    saves.drop_partial()
    saves.note_closed(1, a_closed_save(2))
    assert saves.newest == 1


@given(st.lists(st.sampled_from(["save", "bring"]), max_size=40))
def test_every_save_ends_and_they_end_in_order(acts: list[str]) -> None:
    saves, number, brought = OpenSaves(1), 0, []
    for act in [*acts, "bring", "bring"]:
        if act == "save":
            number += 1
            saves.note_closed(0, a_closed_save(number))
        elif upload := saves.choose_upload():
            saves.note_brought(0, upload, FILES)
            brought.append(upload)
    assert brought == sorted(brought)
    assert len(brought) + saves.replaced == number
    assert not brought or brought[-1] == number
