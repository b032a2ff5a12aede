"""Which checkpoint a start may take, newest first, and why others are passed over. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepspeed_trainer.checkpoints.journal import Commit, CommitKind


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A checkpoint that cannot be continued from, and the reason in a sentence."""

    commit: Commit
    reason: str


def rank_candidates(
    commits: Iterable[Commit], kind: CommitKind, world_size: int
) -> tuple[list[Commit], list[PassedOver]]:
    """Return the commits that a start of this size may take, newest first, and the others.

    Newest is the highest step; of two, what was committed last.
    """
    ordered = sorted(
        (commit for commit in commits if commit.kind is kind),
        key=lambda commit: (commit.step, commit.epoch, commit.time),
        reverse=True,
    )
    usable = [commit for commit in ordered if commit.world_size == world_size]
    others = [
        PassedOver(
            commit,
            f"it was saved by {commit.world_size} ranks and this attempt has {world_size}",
        )
        for commit in ordered
        if commit.world_size != world_size
    ]
    return usable, others


def describe_passed_over(passed: Sequence[PassedOver], step: int | None) -> str | None:
    """Return a sentence on newer checkpoints that were not taken, or None when there are none."""
    newer = [one for one in passed if step is None or one.commit.step > step]
    if not newer:
        return None
    first = max(newer, key=lambda one: one.commit.step)
    more = f" ({len(newer) - 1} more were passed over)" if len(newer) > 1 else ""
    return f"checkpoint {first.commit.path} of step {first.commit.step}: {first.reason}{more}"
