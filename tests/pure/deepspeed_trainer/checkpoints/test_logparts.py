"""A log in a bucket is whole, and no byte of a full part is sent twice."""

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from deepspeed_trainer.checkpoints import logparts
from deepspeed_trainer.checkpoints.logparts import LogParts, name_part
from deepspeed_trainer.checkpoints.stores import BucketStore


class Counting(BucketStore):
    """A bucket that knows how many bytes it was sent."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.sent_bytes = 0

    def write(self, path: str, data: bytes) -> None:
        self.sent_bytes += len(data)
        super().write(path, data)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(logparts, "PART_BYTES", 10)
    return Counting()


def whole(store: BucketStore) -> bytes:
    names = [name_part("rank-00000.log", number) for number in range(9)]
    return b"".join(store.read(f"run/logs/{name}") or b"" for name in names)


def test_a_log_that_grows_is_whole_and_costs_little_more_than_its_size(
    store: Counting, tmp_path: Path
) -> None:
    log, parts = tmp_path / "rank-00000.log", LogParts(store, "run")
    text = bytes(range(48, 48 + 57))
    for end in (3, 3, 10, 11, 38, 57, 57):
        log.write_bytes(text[:end])
        parts.bring(log, "logs")
        assert whole(store) == text[:end]
    assert store.list_names("run/logs")[:2] == ["rank-00000.2.log", "rank-00000.3.log"]
    assert store.sent_bytes == 3 + 10 + 1 + 28 + 27, "parts that are full stay as they are"


def test_what_could_not_be_sent_is_sent_the_next_time(
    store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, parts = tmp_path / "rank-00000.log", LogParts(store, "run")
    log.write_bytes(b"x" * 25)
    write = store.write

    def fail_once(path: str, data: bytes) -> None:
        monkeypatch.setattr(store, "write", write)
        raise OSError("the bucket is gone")

    monkeypatch.setattr(store, "write", fail_once)
    with pytest.raises(OSError, match="gone"):
        parts.bring(log, "logs")
    parts.bring(log, "logs")
    assert whole(store) == b"x" * 25


def test_a_log_that_begins_anew_is_sent_anew(store: Counting, tmp_path: Path) -> None:
    log, parts = tmp_path / "rank-00000.log", LogParts(store, "run")
    for text in (b"first" * 3, b"other"):
        log.write_bytes(text)
        parts.bring(log, "logs")
    assert store.read("run/logs/rank-00000.log") == b"other"
