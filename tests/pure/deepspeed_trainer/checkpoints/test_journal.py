"""The journal fences: who was superseded commits nothing, whatever order things happen in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from deepspeed_trainer.checkpoints import journal as module
from deepspeed_trainer.checkpoints.journal import (
    REPEAT_EVERY,
    Commit,
    Entry,
    EntryKind,
    Journal,
    Superseded,
)
from deepspeed_trainer.checkpoints.stores import BucketStore, Store, VolumeStore
from deepspeed_trainer.fields import ContractError


def a_commit(step: int, epoch: int = 1) -> Commit:
    return Commit(
        path=f"checkpoints/step-{step}", step=step, tag="t", epoch=epoch, world_size=2, time=1.0
    )


def committed(step: int, epoch: int = 1) -> Entry:
    return Entry(kind=EntryKind.COMMITTED, epoch=epoch, time=1.0, commits=(a_commit(step, epoch),))


@pytest.fixture(params=["volume", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return VolumeStore(tmp_path) if request.param == "volume" else BucketStore(MemoryStore())


def test_the_next_attempt_sees_what_the_one_before_committed(store: Store) -> None:
    first = Journal(store, "run")
    assert first.open_epoch(1, 1.0).alive == ()
    first.append(committed(5))
    first.append(committed(10))
    seen = Journal(store, "run").open_epoch(2, 2.0)
    assert [commit.step for commit in seen.alive] == [5, 10]
    assert seen.epoch == 2


def test_a_writer_that_was_out_of_touch_commits_nothing(store: Store) -> None:
    old = Journal(store, "run")
    old.open_epoch(1, 1.0)
    old.append(committed(5))
    new = Journal(store, "run")
    new.open_epoch(2, 2.0)
    with pytest.raises(Superseded, match="attempt 2 has begun"):
        old.append(committed(10))
    with pytest.raises(Superseded):
        old.append(Entry(kind=EntryKind.DELETED, epoch=1, time=1.0, path="checkpoints/step-5"))
    new.append(committed(6, 2))
    assert [c.step for c in Journal(store, "run").read().alive] == [5, 6]


def test_an_epoch_is_opened_once(store: Store) -> None:
    Journal(store, "run").open_epoch(3, 1.0)
    for epoch in (2, 3):
        with pytest.raises(Superseded, match="attempt 3 has begun"):
            Journal(store, "run").open_epoch(epoch, 1.0)


def test_what_was_rejected_or_deleted_is_gone_for_later_attempts(store: Store) -> None:
    first = Journal(store, "run")
    first.open_epoch(1, 1.0)
    for step in (5, 10, 15):
        first.append(committed(step))
    first.append(Entry(kind=EntryKind.REJECTED, epoch=1, time=1.0, path="checkpoints/step-15"))
    Journal(store, "run").open_epoch(2, 2.0)
    second = Journal(store, "run")
    second.open_epoch(3, 3.0)
    second.append(Entry(kind=EntryKind.DELETED, epoch=3, time=1.0, path="checkpoints/step-5"))
    assert [c.step for c in Journal(store, "run").read().alive] == [10]


def test_somebody_elses_file_is_refused(store: Store) -> None:
    store.create("run/journal/00000001.json", b'{"version": 9}')
    with pytest.raises(ContractError, match=r"version must be 1"):
        Journal(store, "run").open_epoch(1, 1.0)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_commits_of_any_interleaving_come_from_the_attempt_that_was_newest(
    acts: list[int],
) -> None:
    """Act 0 opens the next attempt; others are commits by the n-th newest one."""
    store: Store = BucketStore(MemoryStore())
    journals = [Journal(store, "run")]
    journals[0].open_epoch(1, 0.0)
    wanted: list[int] = []
    for step, act in enumerate(acts, 1):
        if act == 0:
            journals.insert(0, Journal(store, "run"))
            journals[0].open_epoch(len(journals), 0.0)
            continue
        index = min(act, len(journals)) - 1
        try:
            journals[index].append(committed(step, len(journals) - index))
            wanted.append(step)
        except Superseded:
            assert index > 0
        else:
            assert index == 0
    assert [commit.step for commit in Journal(store, "run").read().alive] == wanted


class Deaf(VolumeStore):
    """A store whose every first write arrives, and whose answer is lost."""

    def create(self, path: str, data: bytes) -> bool:
        return super().create(path, data) and False


def test_a_write_whose_answer_was_lost_is_known_again(tmp_path: Path) -> None:
    journal = Journal(Deaf(tmp_path), "run")
    journal.open_epoch(1, 1.0)
    journal.append(committed(5))
    seen = Journal(VolumeStore(tmp_path), "run").open_epoch(2, 2.0)
    assert [commit.step for commit in seen.alive] == [5]
    with pytest.raises(Superseded):
        journal.append(committed(6))


def test_nobody_reads_further_back_than_a_hundred_entries(store: Store) -> None:
    journal = Journal(store, "run")
    journal.open_epoch(1, 1.0)
    for step in range(250):
        journal.append(committed(step))
    reader = Journal(store, "run")
    read = []
    reader._read_one = lambda path: read.append(path) or Journal._read_one(reader, path)  # type: ignore[method-assign,func-returns-value]
    assert [commit.step for commit in reader.read().alive] == list(range(250))
    assert len(read) <= REPEAT_EVERY
    assert reader.open_epoch(2, 2.0).epoch == 2


def test_of_more_checkpoints_than_can_be_read_the_oldest_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COMMITS", 8)
    monkeypatch.setattr(module, "MAX_ENTRY_BYTES", 1600)
    journal = Journal(VolumeStore(tmp_path), "run")
    journal.open_epoch(1, 1.0)
    for step in range(12):
        journal.append(committed(step))
    seen = Journal(VolumeStore(tmp_path), "run").open_epoch(2, 2.0)
    steps = [commit.step for commit in seen.alive]
    assert 0 < len(steps) <= 8
    assert steps == list(range(12))[-len(steps) :]


def test_what_was_rejected_is_remembered_until_something_counts_again(store: Store) -> None:
    journal = Journal(store, "run")
    journal.open_epoch(1, 1.0)
    journal.append(committed(5))
    journal.note(EntryKind.REJECTED, 1.0, path="checkpoints/step-5", reason="other bytes")
    second = Journal(store, "run")
    assert second.open_epoch(2, 2.0).rejected == "checkpoints/step-5: other bytes"
    second.append(committed(6, 2))
    assert Journal(store, "run").open_epoch(3, 3.0).rejected == ""
