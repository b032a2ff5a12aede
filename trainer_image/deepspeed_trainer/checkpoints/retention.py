"""Which checkpoints may go. Pure; the journal says so first, then the manifest goes, then files."""

from collections.abc import Sequence
from math import isnan

from deepspeed_trainer.checkpoints.journal import Commit, CommitKind
from deepspeed_trainer.contract import Keep


def find_surplus(commits: Sequence[Commit], keep: Keep, protected: str | None) -> list[Commit]:
    """Return what may be deleted, of checkpoints in the order of their commits.

    What lies in another run's folder never is.
    The newest of each kind stays whatever is said, and so does `protected`, the path that the
    running attempt was continued from.
    """
    if keep.last is None:
        return []
    kept = {protected}
    for kind in CommitKind:
        # A converted copy counts for nothing beside the checkpoint that it was made from.
        own = [c for c in commits if c.kind is kind and not (c.universal or c.adopted)]
        kept |= {commit.path for commit in own[-max(1, keep.last) :]}
        if keep.every:
            kept |= {commit.path for commit in own if commit.step % keep.every == 0}
        best = find_best(own, keep)
        kept |= {best.path} if best else set()
    return [c for c in commits if c.path not in kept and not c.path.startswith("/")]


def find_best(commits: Sequence[Commit], keep: Keep) -> Commit | None:
    """Return the commit with the best value of the metric; of equals the newest."""
    sign = 1.0 if keep.best_mode == "Max" else -1.0
    values = {
        commit.path: sign * float(commit.metrics.get(keep.best_metric or "", "nan"))
        for commit in commits
    }
    valued = [commit for commit in commits if not isnan(values[commit.path])]
    return max(valued, key=lambda commit: (values[commit.path], commit.step), default=None)
