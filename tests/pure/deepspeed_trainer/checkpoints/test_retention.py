"""What may go: never the newest, the best, a wanted multiple, or what the attempt came from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepspeed_trainer.checkpoints.journal import Commit, CommitKind
from deepspeed_trainer.checkpoints.retention import find_best, find_surplus
from deepspeed_trainer.contract import Keep


def a_commit(step: int, loss: str | None = None, kind: CommitKind = CommitKind.SAVE) -> Commit:
    return Commit(
        path=f"{kind}/{step}",
        step=step,
        tag="t",
        epoch=1,
        world_size=2,
        time=1.0,
        kind=kind,
        metrics={"loss": loss} if loss else {},
    )


COMMITS = [a_commit(10, "0.5"), a_commit(20, "0.2"), a_commit(30, "nan"), a_commit(40, "0.3")]


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (Keep(), []),
        (Keep(last=1), [10, 20, 30]),
        (Keep(last=3), [10]),
        (Keep(last=1, best_metric="loss"), [10, 30]),
        (Keep(last=1, best_metric="loss", best_mode="Max"), [20, 30]),
        (Keep(last=1, best_metric="accuracy"), [10, 20, 30]),
        (Keep(last=1, every=20), [10, 30]),
        (Keep(last=0), [10, 20, 30]),
    ],
)
def test_what_goes(keep: Keep, gone: list[int]) -> None:
    assert [commit.step for commit in find_surplus(COMMITS, keep, None)] == gone


def test_what_the_attempt_continued_from_stays() -> None:
    assert [c.step for c in find_surplus(COMMITS, Keep(last=1), "Save/10")] == [20, 30]


def test_a_report_and_a_save_do_not_push_each_other_out() -> None:
    commits = [a_commit(10), a_commit(20, kind=CommitKind.REPORT)]
    assert find_surplus(commits, Keep(last=1), None) == []


def test_of_equally_good_ones_the_newest_is_best() -> None:
    commits = [a_commit(10, "0.2"), a_commit(20, "0.2")]
    assert find_best(commits, Keep(last=1, best_metric="loss")) == commits[1]


@given(st.sets(st.integers(0, 99), min_size=1), st.integers(0, 9), st.integers(1, 9))
def test_the_newest_always_stays(steps: set[int], last: int, every: int) -> None:
    commits = [a_commit(step, "1") for step in steps]
    gone = {commit.step for commit in find_surplus(commits, Keep(last, "loss", "Min", every), None)}
    assert max(steps) not in gone
    assert not any(step % every == 0 for step in gone)
    assert len(steps - gone) >= min(max(last, 1), len(steps))
