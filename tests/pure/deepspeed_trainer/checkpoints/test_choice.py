"""The newest usable checkpoint is taken, and a newer one that is not gives its reason."""

import pytest

from deepspeed_trainer.batching import Batch
from deepspeed_trainer.checkpoints.choice import (
    CannotResize,
    PassedOver,
    describe_passed_over,
    rank_candidates,
    require_convertible,
)
from deepspeed_trainer.checkpoints.journal import Commit, CommitKind
from deepspeed_trainer.manifest import NOT_LOOKED_AT
from tests.pure.deepspeed_trainer.makers import a_manifest


def a_commit(step: int, **changes: object) -> Commit:
    fields = {"path": f"c/{step}", "step": step, "tag": "t", "epoch": 1, "world_size": 2}
    return Commit(**{**fields, "time": 1.0, **changes})  # type: ignore[arg-type]


def test_what_was_committed_last_comes_first_whatever_its_step() -> None:
    """A program that began anew counts its steps from 1 again."""
    commits = [a_commit(10), a_commit(20), a_commit(10, path="new", epoch=2)]
    found = rank_candidates(commits, CommitKind.SAVE, 2)
    assert [commit.path for commit in found] == ["new", "c/20", "c/10"]


def test_what_another_run_had_saved_comes_last() -> None:
    commits = [a_commit(5), a_commit(900, path="/other", adopted=True)]
    found = rank_candidates(commits, CommitKind.SAVE, 2)
    assert [commit.path for commit in found] == ["c/5", "/other"]


def test_reports_and_saves_are_chosen_apart() -> None:
    commits = [a_commit(20, kind=CommitKind.REPORT), a_commit(10)]
    for kind, step in ((CommitKind.SAVE, 10), (CommitKind.REPORT, 20)):
        assert [c.step for c in rank_candidates(commits, kind, 2)] == [step]


def test_of_one_step_what_needs_no_conversion_comes_first_and_a_copy_is_made_once() -> None:
    other = a_commit(10, path="other", world_size=4)
    copy = a_commit(10, path="copy", world_size=4, universal=True)
    for size, first in ((4, "other"), (2, "copy"), (1, "copy")):
        found = rank_candidates([other, copy], CommitKind.SAVE, size)
        assert found[0].path == first


def test_age_counts_more_than_sizes_and_a_copy_is_as_old_as_its_source() -> None:
    copy = a_commit(10, path="copy", universal=True)
    commits = [a_commit(10), a_commit(20, world_size=4), copy]
    assert [c.step for c in rank_candidates(commits, CommitKind.SAVE, 2)] == [20, 10, 10]


CONVERTIBLE = {"unresizable": "", "batch": Batch(8, 2, 2)}


def test_a_convertible_checkpoint_is_no_obstacle() -> None:
    for world_size in (1, 4, 8):
        require_convertible("c/5", a_manifest(**CONVERTIBLE), world_size, "Convert")


@pytest.mark.parametrize(
    ("changes", "on_change", "reason"),
    [
        ({}, "Fail", "checkpoint.onWorldSizeChange is Fail"),
        ({"unresizable": "its model has experts"}, "Convert", "its model has experts"),
        ({"unresizable": NOT_LOOKED_AT}, "Convert", NOT_LOOKED_AT),
        ({"batch": Batch(7, 7, 1)}, "Convert", "1 or 7 can"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_way_out(
    changes: dict[str, object], on_change: str, reason: str
) -> None:
    manifest = a_manifest(**{**CONVERTIBLE, **changes})
    with pytest.raises(CannotResize) as refused:
        require_convertible("c/5", manifest, 3, on_change)
    said = str(refused.value)
    assert "c/5 of step 5 was saved by 2 ranks and this attempt has 3" in said
    assert reason in said
    assert "spec.nodes" in said
    assert "checkpoint.resume.mode: Never" in said


def test_an_older_one_that_cannot_be_used_is_not_worth_a_word() -> None:
    others = [PassedOver(a_commit(5), "it is gone")]
    assert describe_passed_over(others, 10) is None
    sentence = describe_passed_over(others, None)
    assert sentence == "checkpoint c/5 of step 5: it is gone"
