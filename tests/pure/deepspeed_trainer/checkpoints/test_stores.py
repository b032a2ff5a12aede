"""Volume and bucket keep the same promises: whole files, one maker, nothing read half."""

import hashlib
from pathlib import Path

import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from deepspeed_trainer.checkpoints.files import LINK_FROM_BYTES, lacks_room
from deepspeed_trainer.checkpoints.stores import BucketStore, Store, VolumeStore, open_store

BIG = LINK_FROM_BYTES + 1


@pytest.fixture(params=["volume", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return VolumeStore(tmp_path / "v") if request.param == "volume" else BucketStore(MemoryStore())


def test_a_file_is_made_once(store: Store) -> None:
    assert store.read("a/b") is None
    assert store.create("a/b", b"1")
    assert not store.create("a/b", b"2")
    assert store.read("a/b") == b"1"
    store.write("a/b", b"3")
    assert store.read("a/b") == b"3"
    assert store.list_names("a") == ["b"]


def test_folders_and_sizes_are_listed_from_below(store: Store) -> None:
    store.write("run/c/one/x", b"123")
    store.write("run/c/one/deep/y", b"1")
    store.write("run/c/two/z", b"")
    assert store.list_folders("run/c") == ["one", "two"]
    assert store.list_sizes("run/c/one") == {"x": 3, "deep/y": 1}
    assert store.list_names("run/c") == []
    assert (store.list_folders("no"), store.list_names("no"), store.list_sizes("no")) == (
        [],
        [],
        {},
    )


@pytest.mark.parametrize("size", [0, 5, BIG, 17 * 1024 * 1024])
def test_what_was_kept_comes_back(store: Store, tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "source").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert store.keep(tmp_path / "source", "c/file") == digest
    target = tmp_path / "back" / "file"
    assert store.fetch("c/file", target) == digest
    assert target.read_bytes() == data


def test_a_small_file_that_is_written_again_leaves_the_kept_one_alone(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "latest").write_text("step5")
    store.keep(tmp_path / "latest", "c/latest")
    store.fetch("c/latest", tmp_path / "back" / "latest")
    (tmp_path / "back" / "latest").write_text("step10")
    assert store.read("c/latest") == b"step5"


def test_removing_twice_is_no_error_and_leaves_no_empty_folder(
    store: Store, tmp_path: Path
) -> None:
    store.write("run/c/one/x", b"1")
    store.write("run/keep", b"1")
    store.remove("run/c/one/x")
    store.remove("run/c/one/x")
    assert store.list_folders("run") == []
    assert store.read("run/keep") == b"1"


def test_the_root_says_which_store_it_is(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), VolumeStore)
    assert isinstance(open_store("s3://bucket/folder"), BucketStore)


@pytest.mark.parametrize(
    ("answer", "is_full"),
    [
        ("Generic S3 error: <Code>QuotaExceeded</Code>", True),
        ("<Code>XMinioStorageFull</Code>", True),
        ("Server returned non-2xx status code: 507 Insufficient Storage", True),
        ("<Code>AccessDenied</Code>", False),
    ],
)
def test_a_bucket_s_quota_is_told_as_a_full_disk(answer: str, *, is_full: bool) -> None:
    class Refusing:
        def put(self, *_args: object, **_kwargs: object) -> None:
            raise GenericError(answer)

    store = BucketStore(MemoryStore())
    store._obstore = Refusing()
    with pytest.raises(OSError, match="memory") as caught:
        store.write("a", b"1")
    assert lacks_room(caught.value) is is_full
