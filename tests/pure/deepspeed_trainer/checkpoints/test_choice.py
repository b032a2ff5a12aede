"""The newest usable checkpoint is taken, and a newer one that is not gives its reason."""

from deepspeed_trainer.checkpoints.choice import describe_passed_over, rank_candidates
from deepspeed_trainer.checkpoints.journal import Commit, CommitKind


def a_commit(step: int, **changes: object) -> Commit:
    fields = {"path": f"c/{step}", "step": step, "tag": "t", "epoch": 1, "world_size": 2}
    return Commit(**{**fields, "time": 1.0, **changes})  # type: ignore[arg-type]


def test_the_highest_step_comes_first_and_of_two_the_later_attempts() -> None:
    commits = [a_commit(20), a_commit(10, path="new", epoch=2), a_commit(10)]
    usable, _ = rank_candidates(commits, CommitKind.SAVE, 2)
    assert [commit.path for commit in usable] == ["c/20", "new", "c/10"]


def test_reports_and_saves_are_chosen_apart() -> None:
    commits = [a_commit(20, kind=CommitKind.REPORT), a_commit(10)]
    for kind, step in ((CommitKind.SAVE, 10), (CommitKind.REPORT, 20)):
        assert [c.step for c in rank_candidates(commits, kind, 2)[0]] == [step]


def test_another_world_size_is_passed_over_with_both_numbers() -> None:
    usable, others = rank_candidates([a_commit(20, world_size=4), a_commit(10)], CommitKind.SAVE, 2)
    assert [commit.step for commit in usable] == [10]
    sentence = describe_passed_over(others, 10)
    assert sentence == "checkpoint c/20 of step 20: it was saved by 4 ranks and this attempt has 2"


def test_an_older_one_that_cannot_be_used_is_not_worth_a_word() -> None:
    _, others = rank_candidates([a_commit(5, world_size=4)], CommitKind.SAVE, 2)
    assert describe_passed_over(others, 10) is None
    assert describe_passed_over(others, None) is not None
