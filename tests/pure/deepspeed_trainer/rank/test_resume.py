"""The chosen checkpoint is put where the program had saved it, and read before a start."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.batching import Batch
from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.checkpoints import stores
from deepspeed_trainer.checkpoints.files import stamp_of
from deepspeed_trainer.checkpoints.journal import Commit, CommitKind, EntryKind, Journal
from deepspeed_trainer.checkpoints.stores import VolumeStore, hash_file
from deepspeed_trainer.contract import (
    MANIFEST_FILE,
    Entrypoint,
    EntrypointKind,
    Manifest,
    ManifestFile,
    RunContract,
)
from deepspeed_trainer.rank.rankenv import program_checkpoint_dir
from deepspeed_trainer.rank.resume import Damaged, prepare
from tests.pure.deepspeed_trainer.makers import a_contract, a_manifest

SAVE = "team/bert/uid-1/run-1/checkpoints/step-5"
FILES = {
    "tag/zero_pp_rank_0_x.pt": 0,
    "tag/zero_pp_rank_1_x.pt": 1,
    "latest": 0,
}


def a_saved_job(
    volume: Path, source: str = ".", files: Mapping[str, int] = FILES
) -> tuple[RunContract, Resume]:
    """A job whose volume holds a committed checkpoint of two ranks."""
    kept = []
    for path, rank in files.items():
        file = volume / SAVE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("tag" if path == "latest" else path)
        kept.append(ManifestFile(path, file.stat().st_size, hash_file(file), rank))
    manifest = a_manifest(files=tuple(kept), source=source, tag="tag")
    VolumeStore(volume).write(f"{SAVE}/{MANIFEST_FILE}", manifest.to_json().encode())
    return a_contract(storage=str(volume), attempt=2), Resume(1, save=SAVE, step=5, attempt=1)


def a_journal_with(volume: Path, path: str, **more: Any) -> None:
    """A run's journal with one checkpoint that counts."""
    journal = Journal(VolumeStore(volume), "team/bert/uid-1/run-1")
    journal.open_epoch(1, 1.0)
    commit = Commit(path=path, step=5, tag="tag", epoch=1, world_size=2, time=1.0, **more)
    journal.note(EntryKind.COMMITTED, 1.0, commits=(commit,))


def test_each_rank_brings_its_own_shard_and_rank_0_what_all_read(tmp_path: Path) -> None:
    contract, resume = a_saved_job(tmp_path)
    folder = program_checkpoint_dir(contract)
    _, read = prepare(contract, 1, 0, resume)
    assert [file.path for file in read] == ["tag/zero_pp_rank_1_x.pt"]
    assert not (folder / "latest").exists()
    resumed, read = prepare(contract, 0, 0, resume)
    assert sorted(file.path for file in read) == ["latest", "tag/zero_pp_rank_0_x.pt"]
    assert (folder / "latest").read_text() == "tag"
    assert sorted(path.name for path in (folder / "tag").iterdir()) == [
        "zero_pp_rank_0_x.pt",
        "zero_pp_rank_1_x.pt",
    ]
    assert (resumed.folder, resumed.tag, resumed.step) == (str(folder), "tag", 5)


def test_a_program_that_saved_elsewhere_finds_it_there(tmp_path: Path) -> None:
    elsewhere = tmp_path / "output" / "checkpoint-5"
    contract, resume = a_saved_job(tmp_path / "volume", source=str(elsewhere))
    prepare(contract, 1, 0, resume)
    assert (elsewhere / "tag" / "zero_pp_rank_1_x.pt").exists()
    assert (elsewhere / "latest").read_text() == "tag", "this pod has a disk of its own"


def test_a_program_is_told_whose_save_it_continues_from(tmp_path: Path) -> None:
    contract, resume = a_saved_job(tmp_path)
    assert not prepare(contract, 0, 0, resume)[0].adopted
    other = replace(contract, run="run-2")
    for chosen in (resume, Resume(1, report=SAVE, step=5, attempt=1)):
        assert prepare(other, 0, 0, chosen)[0].adopted


@pytest.mark.parametrize("adopted", [True, False])
def test_of_a_converted_copy_the_journal_tells_whose_it_was(tmp_path: Path, adopted: bool) -> None:
    contract, resume = a_saved_job(tmp_path)
    found = (tmp_path / SAVE / MANIFEST_FILE).read_bytes()
    changed = replace(Manifest.from_json(found), universal=True)
    VolumeStore(tmp_path).write(f"{SAVE}/{MANIFEST_FILE}", changed.to_json().encode())
    a_journal_with(tmp_path, "checkpoints/step-5", adopted=adopted)
    assert prepare(contract, 0, 0, resume)[0].adopted == adopted


def test_what_another_pod_had_brought_is_known_on_a_disk_of_the_pod_s_own(tmp_path: Path) -> None:
    files = {"dataloader_rank1.pt": 1, "dataloader_rank0.pt": 0, "latest": 1}
    elsewhere = tmp_path / "output"
    for source, expected in ((str(elsewhere), [elsewhere / "dataloader_rank1.pt"]), (".", [])):
        volume = tmp_path / f"volume{len(source)}"
        contract, resume = a_saved_job(volume, source=source, files=files)
        resumed, _ = prepare(contract, 0, 0, resume)
        assert resumed.others == {path: stamp_of(path) for path in expected}
        env = resumed.to_env()
        assert "dataloader" not in str(env), "a variable has no room for many"


def test_what_transformers_would_take_instead_is_set_aside(tmp_path: Path) -> None:
    output = tmp_path / "output"
    for name in ("checkpoint-3", "checkpoint-15", "checkpoint-15-notes", "uncounted-checkpoint-15"):
        (output / name).mkdir(parents=True)
        (output / name / "state").touch()
    contract, resume = a_saved_job(tmp_path / "volume", source=str(output / "checkpoint-5"))
    prepare(contract, 1, 1, resume)
    assert (output / "checkpoint-15").exists(), "the first rank of a pod does it"
    prepare(contract, 0, 0, resume)
    assert sorted(path.name for path in output.iterdir()) == [
        "checkpoint-15-notes",
        "checkpoint-3",
        "checkpoint-5",
        "uncounted-checkpoint-15",
        "uncounted-checkpoint-15-2",
    ], "nothing is deleted"


def test_a_rank_that_was_still_at_an_older_choice_sets_aside_what_it_brought(
    tmp_path: Path,
) -> None:
    """It may have made the folder again that another rank had set aside."""
    output = tmp_path / "output"
    newer, _ = a_saved_job(tmp_path / "newer", source=str(output / "checkpoint-15"))
    older, resume = a_saved_job(tmp_path / "older", source=str(output / "checkpoint-5"))
    prepare(older, 0, 0, resume)
    prepare(newer, 1, 1, resume)
    prepare(older, 1, 1, resume)
    assert [path.name for path in sorted(output.glob("checkpoint-*"))] == ["checkpoint-5"]


def test_a_file_beside_the_tag_can_be_written_without_harm_to_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the program writes below the tag names are taken off; beside it nobody does so."""
    monkeypatch.setattr(stores, "LINK_FROM_BYTES", 1)
    contract, resume = a_saved_job(tmp_path)
    folder = program_checkpoint_dir(contract)
    prepare(contract, 0, 0, resume)
    with (folder / "latest").open("wb") as file:
        file.write(b"overwritten")
    assert (tmp_path / SAVE / "latest").read_text() == "tag"
    assert (folder / "tag" / "zero_pp_rank_0_x.pt").is_symlink(), "large ones cost no copy"


@pytest.mark.parametrize("path", ["tag/zero_pp_rank_1_x.pt", MANIFEST_FILE])
def test_damage_is_named(tmp_path: Path, path: str) -> None:
    contract, resume = a_saved_job(tmp_path)
    if path == MANIFEST_FILE:
        (tmp_path / SAVE / path).unlink()
    else:
        (tmp_path / SAVE / path).write_text("other bytes")
    with pytest.raises(Damaged, match=path.rsplit("/", 1)[-1]) as raised:
        prepare(contract, 1, 0, resume)
    assert raised.value.path == SAVE


@pytest.mark.parametrize("resume_mode", ["Auto", "Never"])
def test_what_a_start_before_left_and_never_counted_is_not_found(
    tmp_path: Path, resume_mode: str
) -> None:
    contract = a_contract(storage=str(tmp_path), resume=resume_mode)
    folder = program_checkpoint_dir(contract)
    left = ["latest", "checkpoint-10/latest", "outputs/ds/latest"]
    for rank in (0, 1):  # any rank may come first, and there may be more than one round
        for name in left:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("half")
        resumed, read = prepare(contract, rank, rank, Resume(1))
        assert (resumed.path, read) == ("", [])
        assert not list(folder.iterdir())
    aside = folder.with_name("uncounted-checkpoints")
    assert sorted(path.name for path in aside.rglob("*") if path.is_file()) == [
        *["latest"] * 5,
        "latest-2",
    ]


def test_what_a_driver_program_has_just_written_stays(tmp_path: Path) -> None:
    """Its process runs before the ranks do, and has the same folder."""
    driver = Entrypoint(EntrypointKind.DRIVER, "train.py")
    contract = a_contract(storage=str(tmp_path), entrypoint=driver)
    folder = program_checkpoint_dir(contract)
    for name in ("tokenizer/vocab.json", "checkpoint-10/state", "ds/latest", "ds2/t/x_states.pt"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    (folder / "config.json").touch()
    (folder / "latest").touch()
    prepare(contract, 0, 0, Resume(1))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer"]


@pytest.mark.parametrize("kind", [EntrypointKind.DRIVER, EntrypointKind.FUNCTION])
def test_what_counts_and_lies_where_the_program_had_put_it_stays(
    tmp_path: Path, kind: EntrypointKind
) -> None:
    """A report that Ray has put below the folder is a checkpoint at that very place."""
    contract = a_contract(storage=str(tmp_path), entrypoint=Entrypoint(kind, "x"), resume="Never")
    folder = program_checkpoint_dir(contract)
    for name in ("exp/report-1/latest", "exp-2/report-1/latest"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    run = "team/bert/uid-1/run-1"
    path = (folder / "exp" / "report-1").relative_to(tmp_path / run).as_posix()
    a_journal_with(tmp_path, path, kind=CommitKind.REPORT)
    prepare(contract, 0, 0, Resume(1))
    assert [path.name for path in folder.iterdir()] == ["exp"]


def test_with_a_report_chosen_the_program_s_folder_stays(tmp_path: Path) -> None:
    contract, _ = a_saved_job(tmp_path)
    folder = program_checkpoint_dir(contract)
    (folder / "checkpoint-10").mkdir(parents=True)
    (folder / "latest").touch()
    prepare(contract, 0, 0, Resume(1, report=SAVE, step=5, attempt=1))
    assert [path.name for path in folder.iterdir()] == ["checkpoint-10"]


def test_without_storage_a_program_s_own_saves_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    contract = a_contract(storage=None)
    folder = program_checkpoint_dir(contract)
    (folder / "checkpoint-10").mkdir(parents=True, exist_ok=True)
    prepare(contract, 0, 0, Resume(1))
    assert (folder / "checkpoint-10").exists()


def test_of_a_converted_one_the_first_rank_of_a_folder_brings_all(tmp_path: Path) -> None:
    contract, resume = a_saved_job(tmp_path)
    found = (tmp_path / SAVE / MANIFEST_FILE).read_bytes()
    changed = replace(Manifest.from_json(found), universal=True, world_size=4, batch=Batch(8, 2, 1))
    VolumeStore(tmp_path).write(f"{SAVE}/{MANIFEST_FILE}", changed.to_json().encode())
    stale = program_checkpoint_dir(contract) / "tag" / "zero" / "old.pt"
    stale.parent.mkdir(parents=True)
    stale.touch()
    resumed, read = prepare(contract, 0, 0, resume)
    assert sorted(file.path for file in read) == sorted(FILES)
    assert not stale.exists(), "of another conversion"
    assert resumed.batch == (8, 2, 2), "what makes the same global batch with two ranks"


def test_as_many_ranks_as_before_may_change_their_batch(tmp_path: Path) -> None:
    contract, resume = a_saved_job(tmp_path)
    assert prepare(contract, 0, 0, resume)[0].batch == ()
