"""Which checkpoint counts, whose files are whose, and what damage does."""

from dataclasses import replace
from pathlib import Path

import pytest

from deepspeed_trainer import checkpoint
from deepspeed_trainer.checkpoint import CheckpointCorrupt
from deepspeed_trainer.manifest import MANIFEST_FILE
from tests.pure.deepspeed_trainer.makers import a_manifest

NAMES = [
    "zero_pp_rank_0_mp_rank_00_model_states.pt",
    "zero_pp_rank_1_mp_rank_00_model_states.pt",
    "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
]


def a_checkpoint(run: Path, attempt: int, step: int, **changes: object) -> Path:
    """A committed checkpoint of two ranks."""
    folder = run / f"attempt-{attempt}" / "checkpoints" / f"step{step}"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(f"{name} {step}")
    files = tuple(file for rank in (0, 1) for file in checkpoint.describe_own_files(folder, rank))
    checkpoint.commit(folder, a_manifest(step, attempt=attempt, files=files, **changes))
    return folder


OWNERS = {
    "zero_pp_rank_0_mp_rank_00_model_states.pt": 0,
    "zero_pp_rank_12_mp_rank_00_optim_states.pt": 12,
    "bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt": 3,
    "rng_state_7.pth": 7,
    "mp_rank_00_model_states.pt": 0,
    "latest": 0,
    "config.json": 0,
    "sub/zero_pp_rank_2_mp_rank_00_model_states.pt": 2,
}


@pytest.mark.parametrize("path", OWNERS)
def test_a_file_belongs_to_the_rank_in_its_name_or_to_rank_0(path: str) -> None:
    assert checkpoint.owner_of(path) == OWNERS[path]


def test_every_file_has_one_owner_and_the_manifest_is_none_of_them(tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path, 1, 5)
    manifest = checkpoint.read_manifest(folder)
    assert manifest is not None
    assert sorted(file.path for file in manifest.files) == sorted(NAMES)
    assert [file.path for file in manifest.files_of(0)] == NAMES[:1]


def test_the_highest_step_is_the_newest_whatever_attempt_saved_it(tmp_path: Path) -> None:
    a_checkpoint(tmp_path, 1, 20)
    a_checkpoint(tmp_path, 2, 10)
    found = checkpoint.find_newest(tmp_path, 2)
    assert found is not None
    assert found.manifest.step == 20


def test_nothing_is_found_where_nothing_was_committed(tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path, 1, 5)
    (folder / MANIFEST_FILE).unlink()
    assert checkpoint.find_newest(tmp_path, 2) is None
    assert checkpoint.find_newest(tmp_path / "absent", 2) is None


def test_a_file_that_is_missing_or_short_disqualifies(tmp_path: Path) -> None:
    a_checkpoint(tmp_path, 1, 5)
    missing, short = a_checkpoint(tmp_path, 1, 10), a_checkpoint(tmp_path, 1, 15)
    (missing / NAMES[1]).unlink()
    (short / NAMES[1]).write_text("x")
    found = checkpoint.find_newest(tmp_path, 2)
    assert found is not None
    assert found.manifest.step == 5


def test_a_torn_manifest_disqualifies(tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path, 1, 5)
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text[: len(text) // 2])
    assert checkpoint.find_newest(tmp_path, 2) is None


def test_another_world_size_disqualifies(tmp_path: Path) -> None:
    a_checkpoint(tmp_path, 1, 5)
    assert checkpoint.find_newest(tmp_path, 4) is None


def test_a_rejected_checkpoint_is_never_taken_again(tmp_path: Path) -> None:
    checkpoint.reject(a_checkpoint(tmp_path, 1, 5), "damaged")
    assert checkpoint.find_newest(tmp_path, 2) is None


def test_an_offered_checkpoint_is_what_deepspeed_looks_for(tmp_path: Path) -> None:
    a_checkpoint(tmp_path, 1, 5)
    found = checkpoint.find_newest(tmp_path, 2)
    assert found is not None
    target = tmp_path / "attempt-2" / "checkpoints"
    target.mkdir(parents=True)
    checkpoint.offer(found, target)
    checkpoint.offer(found, target)
    assert (target / "latest").read_text() == "step5"
    assert (target / "step5" / NAMES[0]).read_text() == f"{NAMES[0]} 5"
    assert not (target / "step5").readlink().is_absolute()
    again = checkpoint.find_newest(tmp_path, 2)
    assert again == found, "the link counts as no checkpoint of its own"


def test_offering_an_attempt_its_own_checkpoint_changes_no_file(tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path, 1, 5)
    found = checkpoint.find_newest(tmp_path, 2)
    assert found is not None
    checkpoint.offer(found, folder.parent)
    assert not folder.is_symlink()
    assert (folder.parent / "latest").read_text() == "step5"


def test_a_changed_byte_is_found_by_the_rank_that_owns_it(tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path, 1, 5)
    manifest = checkpoint.read_manifest(folder)
    assert manifest is not None
    (folder / NAMES[2]).write_text(f"{NAMES[2]} 6")
    assert len(checkpoint.verify(folder, manifest, 0)) == 1
    with pytest.raises(CheckpointCorrupt, match=NAMES[2]):
        checkpoint.verify(folder, manifest, 1)


def test_a_folder_can_be_uncommitted_once(tmp_path: Path) -> None:
    folder = a_checkpoint(tmp_path, 1, 5)
    assert checkpoint.uncommit(folder)
    assert not checkpoint.uncommit(folder)
    assert checkpoint.find_newest(tmp_path, 2) is None


def test_a_link_out_of_the_storage_is_not_below_it(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "out").symlink_to(tmp_path)
    assert checkpoint.is_below(tmp_path / "storage" / "a", tmp_path / "storage")
    assert not checkpoint.is_below(tmp_path / "storage" / "out" / "a", tmp_path / "storage")


def test_what_several_ranks_wrote_is_in_the_manifest_once_and_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("rank 1's")
    (now,) = checkpoint.describe_files(tmp_path, ["latest"], 1)
    before = replace(now, sha256="0" * 64, rank=0)
    (united,) = checkpoint.unite(tmp_path, [before, now])
    assert (united.sha256, united.rank) == (now.sha256, 0)


def test_reported_checkpoints_are_found_apart_from_saved_ones(tmp_path: Path) -> None:
    for folder in ("attempt-1/ray/report-00001", "attempt-2/ray/report-00001"):
        (tmp_path / folder).mkdir(parents=True)
        checkpoint.commit(
            tmp_path / folder, a_manifest(tag="report-00001", attempt=int(folder[8]), files=())
        )
    found = checkpoint.find_reported(tmp_path, 2)
    assert found is not None
    assert found.folder.parent.parent.name == "attempt-2"
    assert checkpoint.find_newest(tmp_path, 2) is None
