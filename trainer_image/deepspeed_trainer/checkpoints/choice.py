"""Which checkpoint a start may take, newest first, and why others are passed over. Pure."""

from collections.abc import Sequence
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


def rank_candidates(commits: Sequence[Commit], kind: CommitKind, world_size: int) -> list[Commit]:
    """Return the commits of a kind, newest first; given in the order of their commits.

    Steps say nothing of age: a program that began anew counts from 1 again.  A converted copy is as
    old as what it was made from, and of the two comes first what needs no conversion.  What another
    run had saved counts less than anything of the run's own.
    """
    places = {
        (c.step, c.epoch, c.kind): place for place, c in enumerate(commits) if not c.universal
    }

    def newness(numbered: tuple[int, Commit]) -> tuple[bool, int, bool, bool, int]:
        place, commit = numbered
        source = places.get((commit.step, commit.epoch, commit.kind), place)
        fits = commit.world_size == world_size and not commit.universal
        return not commit.adopted, source, fits, commit.universal, place

    own = [(place, commit) for place, commit in enumerate(commits) if commit.kind is kind]
    return [commit for _, commit in sorted(own, key=newness, reverse=True)]


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
    """Return a sentence on later checkpoints that were not taken, or None when there are none."""
    newer = [one for one in passed if step is None or one.commit.step > step]
    if not newer:
        return None
    first = max(newer, key=lambda one: one.commit.step)
    more = f" ({len(newer) - 1} more were passed over)" if len(newer) > 1 else ""
    return f"checkpoint {first.commit.path} of step {first.commit.step}: {first.reason}{more}"
