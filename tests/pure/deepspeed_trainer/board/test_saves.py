"""A save is committed when all ranks described their files, and never when it was overwritten."""

from deepspeed_trainer.board.saves import OpenSaves, Save
from deepspeed_trainer.manifest import ManifestFile

FILE = (ManifestFile("a", 1, "0" * 64, 0),)


def a_save(number: int = 1) -> Save:
    return Save("/s/step5", "step5", 5, 3, number)


def saved_by_both(number: int = 1) -> OpenSaves:
    saves = OpenSaves(2)
    for rank in (0, 1):
        saves.note_saved(rank, a_save(number))
    return saves


def test_one_rank_alone_commits_nothing() -> None:
    saves = saved_by_both()
    assert saves.note_hashed(0, "/s/step5", 1, FILE) is None
    assert saves.is_waiting


def test_the_last_rank_commits() -> None:
    saves = saved_by_both()
    saves.note_hashed(0, "/s/step5", 1, FILE)
    save = saves.note_hashed(1, "/s/step5", 1, FILE)
    assert save is not None
    assert set(save.files) == {0, 1}
    assert not saves.is_waiting


def test_hashes_of_an_overwritten_save_are_dropped() -> None:
    saves = saved_by_both()
    saves.note_hashed(0, "/s/step5", 1, FILE)
    saves.note_saved(0, a_save(2))
    assert saves.note_hashed(1, "/s/step5", 1, FILE) is None


def test_a_save_given_up_is_never_committed() -> None:
    saves = saved_by_both()
    assert saves.give_up("/s/step5")
    assert not saves.is_waiting
    for rank in (0, 1):
        assert saves.note_hashed(rank, "/s/step5", 1, FILE) is None


def test_a_save_that_is_not_complete_is_not_waited_for() -> None:
    saves = OpenSaves(2)
    saves.note_saved(0, a_save())
    assert not saves.is_waiting
