"""What goes into a conversion, and what is refused before anything runs. No DeepSpeed here."""

from pathlib import Path

import pytest

from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.checkpoints.stores import VolumeStore, hash_file
from deepspeed_trainer.contract import MANIFEST_FILE, ManifestFile
from deepspeed_trainer.rank import conversion
from deepspeed_trainer.rank.conversion import NotConverted, convert, find_shards
from deepspeed_trainer.rank.resume import Damaged
from tests.pure.deepspeed_trainer.makers import SHA, a_contract, a_manifest

SAVE, INTO = "run/checkpoints/step-5", "run/checkpoints/step-5-a2-universal-save"
SHARDS = [f"tag/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
OTHERS = ["latest", "tag/loop_rng_state_00001.json", "notes/x_model_states.pt"]


def a_volume(root: Path) -> Path:
    paths = [*SHARDS, "tag/zero_pp_rank_0_mp_rank_00_model_states.pt", *OTHERS]
    for path in paths:
        file = root / SAVE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    files = [ManifestFile(p, len(p), hash_file(root / SAVE / p), 0) for p in paths]
    manifest = a_manifest(files=tuple(files), unresizable="")
    VolumeStore(root).write(f"{SAVE}/{MANIFEST_FILE}", manifest.to_json().encode())
    (root / SAVE / "tag" / "zero_pp_rank_9_mp_rank_00_optim_states.pt").touch()
    return root


def test_the_converter_sees_the_manifests_files_alone_and_the_rest_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, seen = a_volume(tmp_path), []

    def converter(_contract: object, source: Path, target: Path) -> None:
        seen.extend(sorted(path.name for path in source.iterdir()))
        (target / "zero").mkdir(parents=True)
        (target / "zero" / "fp32.pt").write_text("whole")

    monkeypatch.setattr(conversion, "_run_converter", converter)
    half = volume / INTO / "tag" / "half.pt"
    half.parent.mkdir(parents=True)
    half.touch()
    fact = convert(a_contract(storage=str(volume)), Resume(1, convert=SAVE, into=INTO))
    assert "zero_pp_rank_9_mp_rank_00_optim_states.pt" not in seen, "left by another size"
    assert sorted(file["path"] for file in fact["files"]) == sorted([*OTHERS, "tag/zero/fp32.pt"])
    assert not half.exists()
    for file in fact["files"]:
        assert hash_file(volume / INTO / file["path"]) == file["sha256"]


def test_damage_is_found_before_it_is_converted(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    (volume / SAVE / SHARDS[1]).write_text("other bytes")
    with pytest.raises(Damaged, match="zero_pp_rank_1"):
        convert(a_contract(storage=str(volume)), Resume(1, convert=SAVE, into=INTO))


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["model.bin"], "0 folders with optimizer shards"),
        ([SHARDS[0], f"other/{SHARDS[1]}"], "2 folders"),
        (SHARDS[:1], "1 optimizer shards and was saved by 2 ranks"),
    ],
)
def test_what_is_no_checkpoint_of_all_ranks_is_refused(paths: list[str], reason: str) -> None:
    files = tuple(ManifestFile(path, 1, SHA, 0) for path in paths)
    with pytest.raises(NotConverted, match=reason):
        find_shards(a_manifest(files=files))


def test_a_converter_that_fails_is_quoted(tmp_path: Path) -> None:
    """Here it fails because nothing of DeepSpeed is there, or because the shards are texts."""
    volume = a_volume(tmp_path)
    with pytest.raises(NotConverted, match=r"exit code 1: \w+"):
        convert(a_contract(storage=str(volume)), Resume(1, convert=SAVE, into=INTO))
