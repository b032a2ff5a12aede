"""Which checkpoint a start may take, newest first, and why others are passed over. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepspeed_trainer.batching import NoFit, refit
from deepspeed_trainer.checkpoints.journal import Commit, CommitKind
from deepspeed_trainer.manifest import Manifest


class CannotResize(RuntimeError):
    """The newest checkpoint is of another number of ranks and stays so; the message says why."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A checkpoint that cannot be continued from, and the reason in a sentence."""

    commit: Commit
    reason: str


def rank_candidates(commits: Iterable[Commit], kind: CommitKind, world_size: int) -> list[Commit]:
    """Return the commits of a kind, newest first.

    Newest is the highest step; of two, what needs no conversion, then what was committed last.
    What another run had saved counts less than anything of the run's own, whatever its step.
    """
    return sorted(
        (commit for commit in commits if commit.kind is kind),
        key=lambda commit: (
            not commit.adopted,
            commit.step,
            commit.world_size == world_size and not commit.universal,
            commit.universal,
            commit.epoch,
            commit.time,
        ),
        reverse=True,
    )


def require_convertible(path: str, manifest: Manifest, world_size: int, on_change: str) -> None:
    """Refuse a start that could continue only from what it cannot load.

    An older checkpoint of the right size is no way out: the steps since would be lost in silence.

    Raises:
        CannotResize: with the reason and what to do.
    """
    obstacle = _find_obstacle(manifest, world_size, on_change)
    if obstacle is not None:
        raise CannotResize(
            f"checkpoint {path} of step {manifest.step} was saved by {manifest.world_size} ranks"
            f" and this attempt has {world_size}: {obstacle}; ask for as many ranks as before"
            " (spec.nodes), or begin anew with checkpoint.resume.mode: Never"
        )


def _find_obstacle(manifest: Manifest, world_size: int, on_change: str) -> str | None:
    if on_change == "Fail":
        return "checkpoint.onWorldSizeChange is Fail"
    if manifest.unresizable:
        return manifest.unresizable
    if manifest.batch is not None:
        try:
            refit(manifest.batch, world_size)
        except NoFit as error:
            return str(error)
    return None


def describe_passed_over(passed: Sequence[PassedOver], step: int | None) -> str | None:
    """Return a sentence on newer checkpoints that were not taken, or None when there are none."""
    newer = [one for one in passed if step is None or one.commit.step > step]
    if not newer:
        return None
    first = max(newer, key=lambda one: one.commit.step)
    more = f" ({len(newer) - 1} more were passed over)" if len(newer) > 1 else ""
    return f"checkpoint {first.commit.path} of step {first.commit.step}: {first.reason}{more}"
