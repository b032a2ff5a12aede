import multiprocessing
from pathlib import Path

import pytest

from devcluster.paths import digest, locked, written_whole


def write_half(target: Path, end: BaseException) -> None:
    with written_whole(target) as beside:
        beside.mkdir()
        (beside / "half").touch()
        raise end


def test_what_was_written_half_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "folder", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_what_was_there_before(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_half(target, OSError("disk full"))
    assert target.read_text() == "old"


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with written_whole(tmp_path / "folder") as beside:
            beside.mkdir()
            (beside / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]


def test_a_digest_tells_apart_what_is_cut_differently() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab", "c") == digest(b"ab", "c")


def _count_up(folder: Path, times: int) -> None:
    for _ in range(times):
        with locked(folder / "lock"):
            count = int((folder / "count").read_text())
            (folder / "count").write_text(str(count + 1))
            (folder / "lock").unlink()


def test_a_lock_is_held_by_one_even_when_its_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_count_up, args=(tmp_path, 200)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "count").read_text() == "600"
