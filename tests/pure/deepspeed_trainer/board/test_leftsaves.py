"""Ranks that are killed in Ray's workers leave a record, and the head finishes what it names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepspeed_trainer.board.leftsaves import find_left_saves
from deepspeed_trainer.board.saves import OpenSaves, Save
from deepspeed_trainer.checkpoints.files import LINK_FROM_BYTES
from deepspeed_trainer.checkpoints.stores import VolumeStore, hash_file
from deepspeed_trainer.contract import Entrypoint, EntrypointKind
from deepspeed_trainer.rank.keeper import Keeper
from tests.pure.deepspeed_trainer.makers import a_contract

DRIVER = Entrypoint(EntrypointKind.DRIVER, "own.py")


class Run:
    """Two ranks that save on a volume and are killed before the board hears of it."""

    def __init__(self, folder: Path, restart: int = 0, entrypoint: Entrypoint = DRIVER) -> None:
        self.volume = folder / "volume"
        self.volume.mkdir(exist_ok=True)
        self.work = folder / "work"
        self.contract = a_contract(storage=str(self.volume), entrypoint=entrypoint)
        self.told: list[Mapping[str, Any]] = []
        self.restart = restart
        self.keepers = [Keeper(self.contract, rank, restart, self.told.append) for rank in (0, 1)]

    def save(self, step: int, ranks: tuple[int, ...] = (0, 1), *, closes: bool = True) -> None:
        folder = self.work / f"step{step}"
        folder.mkdir(parents=True, exist_ok=True)
        fact = {"folder": str(self.work), "only": folder.name, "tag": folder.name, "step": step}
        for rank in ranks:
            shard = folder / f"zero_pp_rank_{rank}_optim_states.pt"
            shard.write_bytes(b"%d" % step * LINK_FROM_BYTES)
            self.keepers[rank].note_saved({**fact, "zero_stage": 3, "source": "."})
            if closes:
                self.keepers[rank].note_closed()

    def left(self, known: OpenSaves | None = None, restart: int | None = None) -> list[Save]:
        store, known = VolumeStore(self.volume), known or OpenSaves(2)
        restart = self.restart if restart is None else restart
        return list(find_left_saves(store, self.contract, restart, known))


def test_what_all_ranks_had_closed_is_found_with_its_hashes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(5)
    [save] = run.left()
    assert (save.step, save.tag, sorted(save.files)) == (5, "step5", [0, 1])
    for files in save.files.values():
        assert files
        for file in files:
            assert hash_file(run.volume / save.path / file.path) == file.sha256


def test_the_newest_comes_first_and_one_that_a_rank_lacks_does_not_come(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(5)
    run.save(10)
    run.save(15, ranks=(0,))
    assert [save.step for save in run.left()] == [10], "rank 0 keeps its two newest"


def test_a_save_that_was_not_closed_is_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(5, closes=False)
    assert run.left() == []


def test_what_the_board_has_settled_is_not_found_again(tmp_path: Path) -> None:
    run, known = Run(tmp_path), OpenSaves(2)
    run.save(5)
    known.give_up(1)
    assert run.left(known) == []


def test_what_was_written_to_since_is_no_save(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(5)
    [save] = run.left()
    file = run.volume / save.path / save.files[1][0].path
    file.write_bytes(b"x" * file.stat().st_size)
    assert run.left() == []
    file.unlink()
    assert run.left() == []


def test_a_record_of_another_round_or_a_broken_one_says_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(5)
    assert run.left(restart=1) == []
    for record in run.volume.rglob("rank-00001.json"):
        record.write_text('{"saves": [')
    assert run.left() == []


def test_a_rank_that_told_of_an_empty_report_needs_no_record(tmp_path: Path) -> None:
    """Only rank 0 hands a checkpoint to ray.train.report; the others have said so."""
    run, known = Run(tmp_path), OpenSaves(2)
    run.save(5, ranks=(0,))
    assert run.left() == []
    known.note_closed(1, {**run.told[-1], "size_bytes": 0})
    assert [save.step for save in run.left(known)] == [5]


def test_a_rank_with_a_supervisor_leaves_no_record(tmp_path: Path) -> None:
    run = Run(tmp_path, entrypoint=Entrypoint(EntrypointKind.SCRIPT, "train.py"))
    run.save(5)
    assert run.left() == []
    assert not list(run.volume.rglob("held"))
