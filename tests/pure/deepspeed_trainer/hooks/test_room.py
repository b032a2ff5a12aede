"""A file that finds no room is passed over, and nothing of its save stays."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.hooks.room import SaveRoom

FULL = OSError(errno.ENOSPC, "No space left on device")
QUOTA = OSError(errno.EDQUOT, "Disk quota exceeded")


def writing(*failures: BaseException) -> Callable[..., None]:
    """A writer that writes half of its file and fails, once for each failure."""
    left = list(failures)

    def save(_engine: Any, data: bytes, path: str) -> None:
        Path(path).write_bytes(data[:1] if left else data)
        if left:
            raise left.pop(0)

    return save


@pytest.mark.parametrize("failure", [FULL, QUOTA])
def test_a_file_without_room_is_passed_over_and_leaves_nothing(
    tmp_path: Path, failure: OSError
) -> None:
    room, file = SaveRoom(), tmp_path / "tag.pt"
    room.begin(tmp_path)
    assert room.guard(writing(failure))(None, b"data", str(file)) is None
    assert not file.exists()
    assert room._lack == f"no room for {tmp_path.name}/tag.pt"


def test_what_torch_does_not_explain_is_tried_again(tmp_path: Path) -> None:
    """The disk has room by now: another rank has taken its part back."""
    room, file = SaveRoom(), tmp_path / "a.pt"
    room.begin(tmp_path)
    unexplained = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")
    room.guard(writing(unexplained))(None, b"data", str(file))
    assert file.read_bytes() == b"data"
    assert room._lack is None


@pytest.mark.parametrize("failure", [ValueError("no"), OSError(errno.EIO, "disk"), RuntimeError()])
def test_any_other_failure_is_the_program_s_own(tmp_path: Path, failure: Exception) -> None:
    room = SaveRoom()
    with pytest.raises(type(failure)):
        room.guard(writing(failure, failure))(None, b"data", str(tmp_path / "a.pt"))


@pytest.mark.parametrize("said", [None, b"before"])
def test_a_save_that_is_taken_back_leaves_latest_as_it_was(
    tmp_path: Path, said: bytes | None
) -> None:
    latest, room = tmp_path / "latest", SaveRoom()
    if said is not None:
        latest.write_bytes(said)
    room.begin(tmp_path)
    folder = tmp_path / "tag"
    folder.mkdir()
    own, other = folder / "zero_pp_rank_0_x.pt", folder / "zero_pp_rank_1_x.pt"
    for path in (own, other, latest):
        path.write_bytes(b"tag")
    room.take_back(tmp_path, "tag", 0)
    assert [path.exists() for path in (own, other)] == [False, True]
    assert (latest.read_bytes() if latest.exists() else None) == said
