"""What a program does to its files after a save does not reach what is held."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from deepspeed_trainer.checkpoints.files import (
    LINK_FROM_BYTES,
    copy_whole,
    detach,
    free_names,
    is_anyones,
    is_loose,
    is_shared,
    lacks_room,
    owner_of,
    pin,
    stamp_of,
)

BIG = b"x" * LINK_FROM_BYTES
OWNERS = {
    "zero_pp_rank_0_mp_rank_00_model_states.pt": 0,
    "zero_pp_rank_12_mp_rank_00_optim_states.pt": 12,
    "bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt": 3,
    "rng_state_7.pth": 7,
    "random_states_4.pkl": 4,
    "__5_0.distcp": 5,
    "mp_rank_00_model_states.pt": 0,
    "latest": 0,
    "config.json": 0,
    "sub/zero_pp_rank_2_mp_rank_00_model_states.pt": 2,
}


@pytest.mark.parametrize("path", OWNERS)
def test_a_file_belongs_to_the_rank_in_its_name_or_to_rank_0(path: str) -> None:
    assert owner_of(path) == OWNERS[path]


def test_files_of_no_rank_are_wanted_everywhere() -> None:
    assert [is_shared(path) for path in ("latest", "rng_state_0.pth")] == [True, False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tag/layer_0_expert_1_mp_rank_00_model_states.pt", True),
        ("tag/expp_rank_1_mp_rank_00_optim_states.pt", True),
        ("tag/layer_03-model_00-model_states.pt", True),
        ("tag/mp_rank_01_model_states.pt", True),
        ("dataloader_rank1.pt", True),
        ("tag/mp_rank_00_model_states.pt", False),
        ("zero_pp_rank_1_mp_rank_00_optim_states.pt", False),
        ("latest", False),
        ("zero_to_fp32.py", False),
    ],
)
def test_some_files_of_no_rank_may_lie_on_another_pod(name: str, expected: bool) -> None:
    assert is_anyones(name) == expected


def test_a_pinned_file_survives_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "TemporaryDirectory"
    folder.mkdir()
    (folder / "big").write_bytes(BIG)
    (folder / "small").write_text("1")
    pins = [pin(folder / name, name, [tmp_path / "held"]) for name in ("big", "small")]
    shutil.rmtree(folder)
    assert [p.at.stat().st_size for p in pins] == [LINK_FROM_BYTES, 1]
    assert not any(p.is_stale() for p in pins)


def test_a_large_file_costs_no_copy_and_a_small_one_can_be_appended_to(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    (tmp_path / "small").write_text("1")
    big = pin(tmp_path / "big", "big", [tmp_path / "held"])
    small = pin(tmp_path / "small", "small", [tmp_path / "held"])
    assert big.at.samefile(big.source)
    with (tmp_path / "small").open("a") as file:
        file.write("2")
    assert small.at.read_text() == "1"
    assert small.is_stale()


def test_what_lies_beside_the_tag_is_told_by_its_path() -> None:
    assert [is_loose(path, "tag") for path in ("tag/big", "big", "other/big")] == [
        False,
        True,
        True,
    ]
    assert not is_loose("big", ""), "without a tag all lies in its folder"


def test_a_linked_file_is_made_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    held = pin(tmp_path / "big", "big", [tmp_path / "held"])
    assert held.at.samefile(held.source)
    big = detach(held)
    assert not big.at.samefile(big.source)
    assert stamp_of(big.at)[1:] == held.stamp[1:], "as old as before"
    (tmp_path / "big").write_bytes(b"y" * LINK_FROM_BYTES)
    assert big.is_stale()
    assert not big.has_changed()
    assert big.at.read_bytes() == BIG


def test_a_linked_file_that_was_written_to_is_made_nobodys_own(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    held = pin(tmp_path / "big", "big", [tmp_path / "held"])
    (tmp_path / "big").write_bytes(BIG + b"more")
    with pytest.raises(OSError, match="big was written to"):
        detach(held)
    assert [path.name for path in (tmp_path / "held").iterdir()] == ["big"]


def test_the_first_folder_on_the_same_file_system_is_taken(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"pins-{os.getpid()}"  # noqa: S108  another file system
    (tmp_path / "big").write_bytes(BIG)
    try:
        assert pin(tmp_path / "big", "big", [other, tmp_path / "held"]).at.is_relative_to(tmp_path)
        copied = pin(tmp_path / "big", "big", [other])
        assert copied.at.is_relative_to(other)
    finally:
        shutil.rmtree(other)


def test_a_name_that_is_written_again_is_taken_off_first(tmp_path: Path) -> None:
    tag = tmp_path / "tag"
    tag.mkdir()
    names = ["zero_pp_rank_0_x.pt", "zero_pp_rank_1_x.pt"]
    for name in names:
        (tag / name).write_bytes(BIG)
    pins = [pin(tag / name, name, [tmp_path / "held"]) for name in names]
    (tag / "zero_pp_rank_1_link.pt").symlink_to(pins[1].at)
    free_names(tag, 1)
    assert sorted(path.name for path in tag.iterdir()) == names[:1]
    (tag / names[1]).write_bytes(b"new")
    assert pins[1].at.stat().st_size == LINK_FROM_BYTES


def test_on_every_pod_the_first_rank_takes_off_the_names_of_no_rank(tmp_path: Path) -> None:
    """On a disk of the pod's own rank 0 cannot do so."""
    name = tmp_path / "layer_0_expert_1_mp_rank_00_model_states.pt"
    for is_first, stays in ((False, True), (True, False)):
        name.unlink(missing_ok=True)
        name.symlink_to("committed")
        free_names(tmp_path, 3, is_first=is_first)
        assert name.is_symlink() == stays


def test_a_copy_that_finds_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_source: Path, target: Path) -> None:
        target.write_bytes(b"ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"half")
    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space") as caught:
        copy_whole(tmp_path / "a", tmp_path / "b")
    assert lacks_room(caught.value)
    assert not (tmp_path / "b").exists()
