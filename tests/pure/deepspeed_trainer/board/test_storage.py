"""What the head does on the storage: commits, choices, and what it passes over with a reason."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from deepspeed_trainer.batching import Batch
from deepspeed_trainer.board.saves import Save
from deepspeed_trainer.board.storage import RunStorage
from deepspeed_trainer.checkpoints.choice import CannotResize
from deepspeed_trainer.checkpoints.journal import Superseded
from deepspeed_trainer.checkpoints.lineage import NoSuchCheckpoint
from deepspeed_trainer.checkpoints.stores import BucketStore
from deepspeed_trainer.contract import MANIFEST_FILE, Keep, ManifestFile
from tests.pure.deepspeed_trainer.makers import a_contract

RUN, RUN2 = "team/bert/uid-1/run-1", "team/bert/uid-1/run-2"
NAMES = ("zero_pp_rank_0_x.pt", "zero_pp_rank_1_x.pt")


def open_attempt(volume: Path | str, attempt: int, **changes: object) -> RunStorage:
    return RunStorage(a_contract(attempt=attempt, storage=str(volume), **changes), 1.0)


def commit(
    storage: RunStorage,
    volume: Path,
    step: int,
    *,
    report: bool = False,
    folder: str = "",
    unresizable: str = "",
    run: str = RUN,
) -> Path:
    """Commit a checkpoint of two ranks; returns its folder."""
    own = f"{'report' if report else 'step'}-{step}"
    path = f"{run}/checkpoints/{folder or own}"
    (volume / path).mkdir(parents=True)
    save = Save(
        step, path, "tag", step, 3, ".", report, batch=Batch(8, 2, 2), unresizable=unresizable
    )
    for rank, name in enumerate(NAMES):
        data = f"{name} {step}".encode()
        (volume / path / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        save.files[rank] = (ManifestFile(name, len(data), digest, rank),)
    storage.commit(save, {"torch": "2"}, {"loss": str(1 / step)}, 1.0)
    return volume / path


def test_the_next_attempt_continues_from_the_newest_of_each_kind(tmp_path: Path) -> None:
    first = open_attempt(tmp_path, 1)
    for step in (5, 10):
        commit(first, tmp_path, step)
    commit(first, tmp_path, 7, report=True)
    resume, passed = open_attempt(tmp_path, 2).choosing.choose(1.0)
    assert (resume.save, resume.step, resume.attempt) == (f"{RUN}/checkpoints/step-10", 10, 1)
    assert (resume.report, passed) == (f"{RUN}/checkpoints/report-7", None)


def test_a_run_that_shall_not_resume_does_not(tmp_path: Path) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    resume, _ = open_attempt(tmp_path, 2, resume="Never").choosing.choose(1.0)
    assert (resume.save, resume.step) == ("", 0)


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda folder: (folder / NAMES[1]).write_text("x"), "has 1 bytes, saved were"),
    "missing shard": (lambda folder: (folder / NAMES[1]).unlink(), f"{NAMES[1]} is missing"),
    "no manifest": (lambda folder: (folder / MANIFEST_FILE).unlink(), "manifest is missing"),
    "foreign manifest": (
        lambda folder: (folder / MANIFEST_FILE).write_text("{}"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_checkpoint_is_passed_over_with_the_reason(tmp_path: Path, harm: str) -> None:
    first = open_attempt(tmp_path, 1)
    commit(first, tmp_path, 5)
    act, reason = HARMS[harm]
    act(commit(first, tmp_path, 10))
    resume, passed = open_attempt(tmp_path, 2).choosing.choose(1.0)
    assert resume.step == 5
    assert passed is not None
    assert "checkpoints/step-10 of step 10" in passed
    assert reason in passed


def test_a_rejected_checkpoint_is_never_taken_again(tmp_path: Path) -> None:
    first = open_attempt(tmp_path, 1)
    commit(first, tmp_path, 5)
    commit(first, tmp_path, 10)
    second = open_attempt(tmp_path, 2)
    resume, _ = second.choosing.choose(1.0)
    second.choosing.pass_over(resume.save, "rank 1: other bytes", 1.0)
    again, passed = second.choosing.choose(1.0)
    assert (again.step, again.number) == (5, 2)
    assert passed is not None
    assert "rank 1: other bytes" in passed
    assert open_attempt(tmp_path, 3).choosing.choose(1.0)[0].step == 5


def test_a_folder_without_a_commit_is_no_checkpoint(tmp_path: Path) -> None:
    open_attempt(tmp_path, 1)
    folder = tmp_path / RUN / "checkpoints" / "step-5"
    folder.mkdir(parents=True)
    (folder / NAMES[0]).write_text("half")
    assert open_attempt(tmp_path, 2).choosing.choose(1.0)[0].save == ""


def test_a_superseded_attempt_commits_and_deletes_nothing(tmp_path: Path) -> None:
    old = open_attempt(tmp_path, 1)
    kept = commit(old, tmp_path, 5)
    open_attempt(tmp_path, 2)
    with pytest.raises(Superseded):
        commit(old, tmp_path, 10)
    with pytest.raises(Superseded):
        old.choosing.pass_over(f"{RUN}/checkpoints/step-5", "damaged", 1.0)
    assert (kept / MANIFEST_FILE).exists()
    assert open_attempt(tmp_path, 3).choosing.choose(1.0)[0].step == 5


def test_retention_says_so_first_and_then_deletes(tmp_path: Path) -> None:
    storage = open_attempt(tmp_path, 1, keep=Keep(last=2))
    folders = [commit(storage, tmp_path, step) for step in (5, 10, 15)]
    gone = storage.remove_surplus(1.0)
    assert gone == ["checkpoints/step-5"]
    storage._background.shutdown(wait=True)
    assert [folder.exists() for folder in folders] == [False, True, True]
    assert open_attempt(tmp_path, 2).choosing.choose(1.0)[0].step == 15


def test_the_programs_own_names_go_too_for_they_hold_the_room(tmp_path: Path) -> None:
    storage = open_attempt(tmp_path, 1, keep=Keep(last=1))
    folder = commit(storage, tmp_path, 5)
    own = tmp_path / RUN / "attempt-1" / "checkpoints"
    own.mkdir(parents=True)
    (own / NAMES[0]).hardlink_to(folder / NAMES[0])
    (own / NAMES[1]).write_text("saved anew under the same name")
    commit(storage, tmp_path, 10)
    storage.remove_surplus(1.0)
    storage._background.shutdown(wait=True)
    assert not (own / NAMES[0]).exists()
    assert (own / NAMES[1]).exists()


def test_the_checkpoint_that_the_attempt_came_from_is_kept(tmp_path: Path) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    second = open_attempt(tmp_path, 2, keep=Keep(last=1))
    second.choosing.choose(1.0)
    for step in (10, 15):
        commit(second, tmp_path, step)
    assert second.remove_surplus(1.0) == ["checkpoints/step-10"]


def litter(volume: Path, name: str, file: str = "x.pt") -> Path:
    """What a save that was given up left."""
    path = volume / RUN / "checkpoints" / name / file
    path.parent.mkdir(parents=True)
    path.write_text("x")
    return path


def test_what_given_up_saves_left_goes_and_what_counts_stays(tmp_path: Path) -> None:
    storage = open_attempt(tmp_path, 2)
    gone = [litter(tmp_path, "step-00000005-a1-7"), litter(tmp_path, "step-00000010-a2-1")]
    stay = [
        litter(tmp_path, "step-00000015-a2-2"),
        litter(tmp_path, "somebody-else-s"),
        litter(tmp_path, "step-00000020-a1-8", MANIFEST_FILE),
    ]
    stay.append(commit(storage, tmp_path, 25, folder="step-00000025-a1-9") / NAMES[0])
    (stay[-1].parent / MANIFEST_FILE).unlink()  # the journal alone says that it counts
    storage.sweep(below=2)
    storage.finish()
    assert [path.exists() for path in gone] == [False, False]
    assert all(path.exists() for path in stay)


def test_an_attempt_that_was_superseded_clears_nothing(tmp_path: Path) -> None:
    storage = open_attempt(tmp_path, 2)
    left = litter(tmp_path, "step-00000005-a1-7")
    open_attempt(tmp_path, 3)
    storage.sweep(below=9)
    storage.finish()
    assert left.exists()


def convert(storage: RunStorage, volume: Path, source: str, path: str) -> str:
    """Commit a copy as rank 0 would have made it."""
    (volume / path).mkdir(parents=True)
    (volume / path / "fp32.pt").write_bytes(b"whole")
    digest = hashlib.sha256(b"whole").hexdigest()
    return storage.commit_converted(source, path, (ManifestFile("fp32.pt", 5, digest, 0),), 2.0)


def test_another_number_of_ranks_has_the_newest_converted_first(tmp_path: Path) -> None:
    first = open_attempt(tmp_path, 1)
    commit(first, tmp_path, 5)
    commit(first, tmp_path, 10)
    storage = open_attempt(tmp_path, 2, nodes=4)
    order, _ = storage.choosing.choose(1.0)
    assert (order.convert, order.save) == (f"{RUN}/checkpoints/step-10", "")
    told = convert(storage, tmp_path, order.convert, order.into)
    assert told == (
        "checkpoint checkpoints/step-10 of step 10, saved by 2 ranks, was converted for 4"
    )
    resume, passed = storage.choosing.choose(1.0)
    assert (resume.save, resume.step, passed) == (order.into, 10, None)
    for attempt, size, path in ((3, 8, order.into), (4, 2, f"{RUN}/checkpoints/step-10")):
        resume, _ = open_attempt(tmp_path, attempt, nodes=size).choosing.choose(1.0)
        assert (resume.convert, resume.save) == ("", path), "converted once, or not needed"
    with pytest.raises(CannotResize, match="3 ranks cannot share"):
        open_attempt(tmp_path, 5, nodes=3).choosing.choose(1.0)


def test_what_a_conversion_left_half_done_is_never_chosen(tmp_path: Path) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    order, _ = open_attempt(tmp_path, 2, nodes=1).choosing.choose(1.0)
    (tmp_path / order.into).mkdir(parents=True)
    (tmp_path / order.into / "fp32.pt").write_text("half")
    again, _ = open_attempt(tmp_path, 3, nodes=1).choosing.choose(1.0)
    assert again.convert == order.convert
    assert again.into != order.into


def test_a_size_that_cannot_be_is_refused_though_an_older_checkpoint_would_fit(
    tmp_path: Path,
) -> None:
    """Its steps would be lost in silence."""
    commit(open_attempt(tmp_path, 1, nodes=3), tmp_path, 5)
    commit(open_attempt(tmp_path, 2), tmp_path, 10, unresizable="its model has experts")
    for changes, reason in (
        ({"nodes": 3}, "its model has experts"),
        ({"nodes": 4, "on_world_size_change": "Fail"}, "onWorldSizeChange is Fail"),
    ):
        storage = open_attempt(tmp_path, len(changes) + 2, **changes)
        with pytest.raises(CannotResize, match=reason):
            storage.choosing.choose(1.0)


def test_retention_keeps_the_copy_that_is_continued_from_and_no_other(tmp_path: Path) -> None:
    keep = Keep(last=2)
    first = open_attempt(tmp_path, 1)
    commit(first, tmp_path, 4)
    commit(first, tmp_path, 5)
    second = open_attempt(tmp_path, 2, nodes=1, keep=keep)
    order, _ = second.choosing.choose(1.0)
    convert(second, tmp_path, order.convert, order.into)
    second.choosing.choose(1.0)
    commit(second, tmp_path, 6)
    assert second.remove_surplus(1.0) == ["checkpoints/step-4"]
    third = open_attempt(tmp_path, 3, nodes=1, keep=keep)
    third.choosing.choose(1.0)
    assert third.remove_surplus(1.0) == [order.into.removeprefix(f"{RUN}/")]


def open_other(volume: Path, **changes: object) -> RunStorage:
    """A run of the same name, told to begin from the first one."""
    fields = {"run": "run-2", "resume_from": RUN, **changes}
    return open_attempt(volume, int(str(fields.pop("attempt", 1))), **fields)


def test_a_run_begins_from_another_and_then_only_its_own_counts(tmp_path: Path) -> None:
    older = open_attempt(tmp_path, 1)
    commit(older, tmp_path, 5)
    commit(older, tmp_path, 10)
    commit(older, tmp_path, 7, report=True)
    other = open_other(tmp_path)
    resume, told = other.choosing.choose(1.0)
    assert (resume.save, resume.step, told) == (f"{RUN}/checkpoints/step-10", 10, None)
    assert resume.report == f"{RUN}/checkpoints/report-7"
    commit(other, tmp_path, 2, run=RUN2)
    later = open_other(tmp_path, attempt=2, keep=Keep(last=1))
    resume, _ = later.choosing.choose(1.0)
    assert resume.save == f"{RUN2}/checkpoints/step-2", "its own, though the step is a lower one"
    commit(later, tmp_path, 3, run=RUN2)
    commit(later, tmp_path, 4, run=RUN2)
    assert later.remove_surplus(1.0) == ["checkpoints/step-3"], "what it began from is not its own"
    assert open_attempt(tmp_path, 2).choosing.choose(1.0)[0].step == 10


def test_one_checkpoint_of_a_run_can_be_named(tmp_path: Path) -> None:
    older = open_attempt(tmp_path, 1)
    for step in (5, 10):
        commit(older, tmp_path, step)
    named = open_other(tmp_path, resume_from=f"{RUN}/checkpoints/step-5")
    assert named.choosing.choose(1.0)[0].step == 5


def test_damage_in_what_a_run_begins_from_leads_to_the_one_before_and_never_to_zero(
    tmp_path: Path,
) -> None:
    older = open_attempt(tmp_path, 1)
    for step in (5, 10):
        commit(older, tmp_path, step)
    other = open_other(tmp_path)
    resume, _ = other.choosing.choose(1.0)
    other.choosing.pass_over(resume.save, "rank 1 found other bytes", 1.0)
    resume, told = other.choosing.choose(1.0)
    assert resume.step == 5
    assert told is not None
    assert "rank 1 found other bytes" in told
    other.choosing.pass_over(resume.save, "also harmed", 1.0)
    with pytest.raises(NoSuchCheckpoint, match="also harmed"):
        other.choosing.choose(1.0)
    assert open_attempt(tmp_path, 2).choosing.choose(1.0)[0].step == 10, "the other run decides"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("team/bert/uid-9/run-1", "is no run with checkpoints"),
        (f"{RUN}/checkpoints/step-9", "has no checkpoint checkpoints/step-9 that counts; its"),
    ],
)
def test_a_source_that_is_not_there_says_what_is(tmp_path: Path, source: str, words: str) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    with pytest.raises(NoSuchCheckpoint, match=words):
        open_other(tmp_path, resume_from=source).choosing.choose(1.0)


def test_another_number_of_ranks_converts_what_it_begins_from_into_its_own_folder(
    tmp_path: Path,
) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    other = open_other(tmp_path, nodes=1)
    order, _ = other.choosing.choose(1.0)
    assert order.convert == f"{RUN}/checkpoints/step-5"
    assert order.into.startswith(f"{RUN2}/checkpoints/")
    convert(other, tmp_path, order.convert, order.into)
    assert other.choosing.choose(1.0)[0].save == order.into


def test_a_run_that_begins_at_zero_names_older_ones_of_its_name(tmp_path: Path) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    _, told = open_attempt(tmp_path, 1, run="run-2").choosing.choose(1.0)
    assert told is not None
    assert f"{RUN} (step 5)" in told
    assert "checkpoint.resume.mode: From" in told
    _, told = open_attempt(tmp_path, 1, run="run-3", resume="Never").choosing.choose(1.0)
    assert told is None, "it was told to begin anew"


def test_a_run_that_began_anew_keeps_and_continues_what_it_saved_since(tmp_path: Path) -> None:
    first = open_attempt(tmp_path, 1)
    for step in (990, 1000):
        commit(first, tmp_path, step)
    anew = open_attempt(tmp_path, 2, resume="Never", keep=Keep(last=2))
    anew.choosing.choose(1.0)
    for step in (10, 20, 30):
        commit(anew, tmp_path, step)
        anew.remove_surplus(1.0)
    assert open_attempt(tmp_path, 3).choosing.choose(1.0)[0].step == 30
    steps = [one.step for one in open_attempt(tmp_path, 4)._journal.record.alive]
    assert steps == [20, 30]


@pytest.mark.parametrize("is_seen_at_once", [True, False])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_at_zero(
    tmp_path: Path, *, is_seen_at_once: bool
) -> None:
    folder = commit(open_attempt(tmp_path, 1), tmp_path, 5)
    second = open_attempt(tmp_path, 2)
    if is_seen_at_once:
        (folder / NAMES[0]).unlink()
    else:
        resume, _ = second.choosing.choose(1.0)
        second.choosing.pass_over(resume.save, "rank 1 found other bytes", 1.0)
    for storage in (second, open_attempt(tmp_path, 3)):
        with pytest.raises(NoSuchCheckpoint, match=r"checkpoint\.resume\.mode: Never"):
            storage.choosing.choose(1.0)
    assert open_attempt(tmp_path, 4, resume="Never").choosing.choose(1.0)[0].save == ""


def test_what_two_ranks_wrote_under_one_name_is_read_again_from_a_bucket(tmp_path: Path) -> None:
    """The object is that of whoever came last."""
    storage = open_attempt(tmp_path, 1)
    bucket = BucketStore(MemoryStore())
    storage._store = bucket
    path, local = f"{RUN}/checkpoints/step-5", tmp_path / "metrics.json"
    files = []
    for rank in (0, 1):
        local.write_text(f'{{"rank": {rank}}}' * (rank + 1))
        digest = bucket.keep(local, f"{path}/metrics.json")
        files.append(ManifestFile("metrics.json", local.stat().st_size, digest, rank))
    for order in (files, files[::-1]):
        (united,) = storage._unite(order, path)
        assert (united.size_bytes, united.sha256) == (files[1].size_bytes, files[1].sha256)


def test_an_older_run_that_cannot_be_read_stops_nobody(tmp_path: Path) -> None:
    commit(open_attempt(tmp_path, 1), tmp_path, 5)
    journal = tmp_path / RUN / "journal"
    (journal / "notes.json").write_text("a person's own")
    (journal / "00000002.json").write_text("{}")
    resume, told = open_attempt(tmp_path, 1, run="run-2").choosing.choose(1.0)
    assert (resume.step, told) == (0, None)


def test_the_last_events_that_cannot_be_brought_cost_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_attempt(tmp_path, 1)

    def fail() -> None:
        raise OSError("the bucket is gone")

    monkeypatch.setattr(storage._events, "upload", fail)
    storage.finish()
    assert "the bucket is gone" in capsys.readouterr().out
