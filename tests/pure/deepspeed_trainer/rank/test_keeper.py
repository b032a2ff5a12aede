"""From the program's word that it saved to files on the storage, whatever it does meanwhile."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.checkpoints.files import LINK_FROM_BYTES, pod_folder, stamp_of
from deepspeed_trainer.contract import Entrypoint, EntrypointKind
from deepspeed_trainer.rank.keeper import Keeper
from tests.pure.deepspeed_trainer.makers import a_contract

RUN = "team/bert/uid-1/run-1"
EXPERT = "layer_0_expert_1_mp_rank_00_model_states.pt"
LOOSE = "dataloader_rank1.pt"
SHARD = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"


class Rank:
    """One rank's program and its keeper, on a volume."""

    def __init__(
        self,
        folder: Path,
        rank: int = 0,
        restart: int = 0,
        storage: str | None = None,
        **changes: Any,
    ) -> None:
        self.volume = folder / "volume"
        self.volume.mkdir(exist_ok=True)
        self.work = folder / "work"
        self.facts: list[Mapping[str, Any]] = []
        contract = a_contract(storage=storage or str(self.volume), **changes)
        self.keeper = Keeper(contract, rank, restart, self.facts.append)

    def save(self, step: int, tag: str = "tag", within: str = "", **files: bytes) -> None:
        """What a program does: both ranks' shards of a tag, and `latest` beside it."""
        folder = self.work / tag
        folder.mkdir(parents=True, exist_ok=True)
        for rank in (0, 1):
            (folder / SHARD.format(rank)).write_bytes(b"%d" % step * LINK_FROM_BYTES)
        (self.work / "latest").write_text(tag)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        fact = {"kind": "saved", "folder": str(self.work), "only": tag, "tag": tag, "step": step}
        rest = {"zero_stage": 3, "source": ".", "within": within}
        self.keeper.note_saved({**fact, **rest})

    def bring(self, number: int, newest: int | None = None) -> Mapping[str, Any]:
        """The board asks for a save; returns what the keeper says at last."""
        self.keeper.obey(number, newest or number)
        self.keeper._worker.submit(lambda: None).result(10)
        return self.facts[-1]


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(tmp_path)


def names(fact: Mapping[str, Any]) -> list[str]:
    return [file["path"] for file in fact["files"]]


def test_a_rank_brings_its_own_files_and_rank_0_those_of_no_rank(tmp_path: Path) -> None:
    for number, own in ((0, ["tag/config.json", f"tag/{SHARD.format(0)}", "latest"]), (1, [])):
        rank = Rank(tmp_path, number)
        rank.save(5, **{"config.json": b"{}"})
        rank.keeper.note_closed()
        closed = rank.facts[-1]
        assert (closed["kind"], closed["number"], closed["tag"]) == ("closed", 1, "tag")
        fact = rank.bring(1)
        assert names(fact) == (own or [f"tag/{SHARD.format(1)}"])
        for file in fact["files"]:
            kept = rank.volume / closed["path"] / file["path"]
            assert kept.stat().st_size == file["size_bytes"]


@pytest.mark.parametrize(
    ("local_rank", "is_on_volume", "brings"),
    [(0, False, True), (1, False, False), (0, True, False)],
)
def test_the_first_rank_of_another_pod_brings_what_rank_0_cannot_see(
    tmp_path: Path, local_rank: int, is_on_volume: bool, brings: bool
) -> None:
    rank = Rank(tmp_path, 1)
    if is_on_volume:
        rank.work = rank.volume / "work"
    rank.keeper.note_start(local_rank)
    rank.work.mkdir(exist_ok=True)
    (rank.work / LOOSE).write_bytes(b"1")
    rank.save(5, **{EXPERT: b"1", "mp_rank_00_model_states.pt": b"old", "config.json": b"{}"})
    rank.keeper.note_closed()
    more = [f"tag/{EXPERT}", LOOSE] if brings else []
    assert sorted(names(rank.bring(1))) == sorted([f"tag/{SHARD.format(1)}", *more])


def test_what_another_pod_had_brought_is_its_own_until_it_is_written_here(rank: Rank) -> None:
    """It was put back on every pod, and the copy here may be older than the one there."""
    rank.work.mkdir()
    (rank.work / LOOSE).write_bytes(b"1")
    rank.keeper.note_start(0, {rank.work / LOOSE: stamp_of(rank.work / LOOSE)})
    for number in (1, 2):
        rank.save(number)
        rank.keeper.note_closed()
        assert (LOOSE in names(rank.bring(number))) == (number == 2)
        (rank.work / LOOSE).write_bytes(b"more")


def test_a_file_written_after_the_save_belongs_to_it(rank: Rank) -> None:
    rank.save(5)
    (rank.work / "tag" / "rng_state_0.pth").write_bytes(b"rng")
    rank.keeper.note_closed()
    assert "tag/rng_state_0.pth" in names(rank.bring(1))


@pytest.mark.parametrize(
    ("within", "is_whole", "has_failed", "kind"),
    [
        ("Accelerator.save_state", False, True, "save_lost"),
        ("Accelerator.save_state", True, True, "closed"),
        ("Accelerator.save_state", False, False, "closed"),
        ("", False, True, "closed"),
    ],
)
def test_a_save_that_its_framework_had_not_ended_is_lost_with_its_rank(
    rank: Rank, within: str, is_whole: bool, has_failed: bool, kind: str
) -> None:
    rank.save(5, within=within)
    if is_whole:
        rank.keeper.note_whole()
    rank.keeper.note_closed(has_failed=has_failed)
    assert [fact["kind"] for fact in rank.facts] == [kind]
    if kind == "save_lost":
        assert "before Accelerator.save_state had ended its save" in rank.facts[0]["message"]
        assert not (rank.volume / RUN / "checkpoints").exists()


def test_a_folder_that_is_removed_at_once_is_saved_all_the_same(rank: Rank) -> None:
    rank.save(5)
    shutil.rmtree(rank.work)
    rank.keeper.note_closed()
    assert len(names(rank.bring(1))) == 2


def test_a_tag_that_is_used_again_does_not_reach_the_save_before(rank: Rank) -> None:
    """The hook takes the names off before the program writes to them."""
    rank.save(1)
    rank.keeper.note_closed()
    (rank.work / "tag" / SHARD.format(0)).unlink()
    rank.save(2)
    rank.keeper.note_closed()
    path = rank.facts[0]["path"]
    rank.bring(1, newest=1)
    assert (rank.volume / path / "tag" / SHARD.format(0)).read_bytes()[:1] == b"1"


def test_a_file_beside_the_tag_that_is_written_again_reaches_no_save_before(rank: Rank) -> None:
    """Nobody takes its name off before the program writes: it lies in no tag's folder."""
    loose, kept = rank.work / "custom_checkpoint_0.pkl", []
    for letter in (b"a", b"b"):
        rank.work.mkdir(exist_ok=True)
        loose.write_bytes(letter * LINK_FROM_BYTES)
        rank.save(1)
        rank.keeper.note_closed()
        closed = rank.facts[-1]
        assert loose.name in names(rank.bring(closed["number"]))
        kept.append(rank.volume / closed["path"] / loose.name)
    loose.write_bytes(b"c" * LINK_FROM_BYTES)
    assert [path.read_bytes()[:1] for path in kept] == [b"a", b"b"]


def test_a_file_that_was_written_to_after_its_save_is_no_checkpoint(rank: Rank) -> None:
    """Also when it has the same size as before."""
    rank.save(1)
    rank.keeper.note_closed()
    shard = rank.work / "tag" / SHARD.format(0)
    before = shard.stat().st_mtime_ns
    shard.write_bytes(b"9" * LINK_FROM_BYTES)
    os.utime(shard, ns=(before + 1, before + 1))  # whatever the clock's grain is
    fact = rank.bring(1)
    assert fact["kind"] == "save_lost"
    assert f"tag/{shard.name} was written to" in fact["message"]


def test_a_file_that_grew_while_it_was_brought_is_no_checkpoint(rank: Rank) -> None:
    rank.save(1)
    rank.keeper.note_closed()
    with (rank.work / "tag" / SHARD.format(0)).open("ab") as file:
        file.write(b"more")
    fact = rank.bring(1)
    assert fact["kind"] == "save_lost"
    assert "was written to" in fact["message"]


def test_a_save_of_which_nothing_is_there_is_told(rank: Rank) -> None:
    fact = {"folder": str(rank.work), "only": "tag", "tag": "tag", "step": 1}
    rank.keeper.note_saved({**fact, "zero_stage": 3, "source": "."})
    assert rank.facts[-1]["kind"] == "save_lost"
    assert "nothing of this rank" in rank.facts[-1]["message"]


def test_without_zero_rank_0_has_all_and_the_others_add_nothing(tmp_path: Path) -> None:
    other = Rank(tmp_path, 1)
    (other.work / "tag").mkdir(parents=True)
    (other.work / "tag" / "mp_rank_00_model_states.pt").write_bytes(b"all")
    fact = {"kind": "saved", "folder": str(other.work), "only": "tag", "tag": "tag", "step": 5}
    other.keeper.note_saved({**fact, "zero_stage": 0, "source": "."})
    other.keeper.note_closed()
    assert (other.facts[-1]["kind"], other.facts[-1]["size_bytes"]) == ("closed", 0)
    assert names(other.bring(1)) == []


def test_older_saves_that_nobody_will_ask_for_leave_nothing_behind(rank: Rank) -> None:
    for step in (1, 2, 3):
        rank.save(step, f"tag{step}")
        rank.keeper.note_closed()
    paths = [rank.volume / fact["path"] for fact in rank.facts]
    rank.bring(1, newest=3)
    assert [path.exists() for path in paths] == [True, False, True]
    rank.bring(3)
    assert [path.exists() for path in paths] == [True, False, True]


def test_a_save_inside_a_reported_folder_is_not_brought_twice(rank: Rank) -> None:
    rank.save(1)
    rank.keeper.forget_below(str(rank.work))
    rank.keeper.note_closed()
    assert rank.facts == []
    assert not (rank.volume / RUN / "checkpoints").exists()


def test_saves_are_counted_anew_after_a_restart(tmp_path: Path) -> None:
    """Of ranks that were stopped in the middle one may have saved once more than another."""
    numbers = []
    for restart, saves in ((0, 2), (1, 1)):
        rank = Rank(tmp_path, restart=restart)
        for step in range(saves):
            rank.save(step)
        rank.keeper.note_closed()
        numbers.append(rank.facts[-1]["number"])
    assert numbers == [2, 1_000_001]


def test_what_was_not_brought_at_the_end_leaves_nothing_on_the_volume(rank: Rank) -> None:
    rank.save(1)
    rank.keeper.note_closed()
    assert (rank.volume / rank.facts[0]["path"]).exists()
    rank.keeper.close()
    assert not (rank.volume / rank.facts[0]["path"]).exists()


def test_a_worker_that_fails_leaves_its_closed_saves_to_the_head(tmp_path: Path) -> None:
    function = Entrypoint(EntrypointKind.FUNCTION, "pkg:train")
    rank = Rank(tmp_path, entrypoint=function)
    for step in (1, 2, 3):
        rank.save(step, tag=f"step{step}")
        rank.keeper.note_closed()
    rank.keeper.close()
    lying = [(rank.volume / fact["path"]).exists() for fact in rank.facts]
    assert lying == [False, True, True], "as many as its record names"


def test_a_save_is_skipped_while_others_wait_for_a_bucket_on_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(tmp_path, storage="memory:///")
    free = 10 * LINK_FROM_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    rank.save(1, "tag1")
    free = LINK_FROM_BYTES // 2
    rank.save(2, "tag2")
    assert not rank.facts, "what the program has itself takes up no room"
    shutil.rmtree(rank.work)
    rank.save(3, "tag3")
    assert rank.facts[-1]["kind"] == "save_lost"
    assert rank.facts[-1]["is_crowded"]
    assert "step 3" in rank.facts[-1]["message"]
    free = 10 * LINK_FROM_BYTES
    rank.save(4, "tag4")
    assert rank.facts[-1]["number"] == 3, "there is room again"


def test_a_save_that_failed_leaves_nothing_on_the_volume(rank: Rank) -> None:
    rank.save(1)
    rank.keeper.note_closed()
    with (rank.work / "tag" / SHARD.format(0)).open("ab") as file:
        file.write(b"more")
    assert rank.bring(1)["kind"] == "save_lost"
    assert not (rank.volume / rank.facts[0]["path"]).exists()


def test_a_report_s_copy_on_the_pod_goes_once_it_is_in_the_bucket_and_another_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rank = Rank(tmp_path, storage="memory:///")
    own = pod_folder("bert-a1")
    for number in (1, 2):
        folder = own / f"report-{number}"
        folder.mkdir(parents=True)
        (folder / "model.pt").write_bytes(b"x")
        fact = {"folder": str(folder), "tag": folder.name, "step": number, "zero_stage": 3}
        rank.keeper.note_saved({**fact, "paths": ["model.pt"]})
        rank.keeper.note_closed()
        assert rank.facts[-1]["path"] == f"{RUN}/checkpoints/step-{number:08d}-a1-{number}"
        assert names(rank.bring(number)) == ["model.pt"]
        assert (folder / "model.pt").exists(), "the newest may still be asked for"
    assert [path.exists() for path in sorted(own.glob("*/model.pt"))] == [True]
    assert not (own / "report-1" / "model.pt").exists()
