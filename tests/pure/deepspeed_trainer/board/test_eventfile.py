"""What an attempt tells of itself reaches its bucket, in parts that do not grow without end."""

from pathlib import Path

from obstore.store import MemoryStore

from deepspeed_trainer.board.eventfile import PART_BYTES, EventFile
from deepspeed_trainer.checkpoints.stores import BucketStore, VolumeStore

LINE = "x" * 1023
LINES_A_PART = PART_BYTES // (len(LINE) + 1)


def test_a_volume_has_each_line_at_once(tmp_path: Path) -> None:
    events = EventFile(VolumeStore(tmp_path), "run/attempt-1")
    events.add("one")
    events.add("two")
    assert (tmp_path / "run/attempt-1/events.jsonl").read_text() == "one\ntwo\n"


def test_a_bucket_has_all_lines_after_an_upload() -> None:
    store = BucketStore(MemoryStore())
    events = EventFile(store, "run/attempt-1")
    for line in ("one", "two"):
        events.add(line)
        events.upload()
    assert store.read("run/attempt-1/events.jsonl") == b"one\ntwo\n"


def test_a_full_part_is_followed_by_another_and_never_sent_again() -> None:
    store = BucketStore(MemoryStore())
    events = EventFile(store, "run/attempt-1")
    for _ in range(LINES_A_PART):
        events.add(LINE)
    events.upload()
    store.write("run/attempt-1/events.jsonl", b"as it was")
    events.add("later")
    events.upload()
    events.upload()
    assert store.list_names("run/attempt-1") == ["events-2.jsonl", "events.jsonl"]
    assert store.read("run/attempt-1/events-2.jsonl") == b"later\n"
    assert store.read("run/attempt-1/events.jsonl") == b"as it was"
