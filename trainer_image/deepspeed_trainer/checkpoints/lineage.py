"""Other runs on the same storage: what a run can give to one that is told to continue from it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from deepspeed_trainer.checkpoints.journal import Commit, Journal
from deepspeed_trainer.checkpoints.stores import Store
from deepspeed_trainer.contract import ContractError, JobRef

RUN_PARTS: Final = 4
"""A run's folder is <namespace>/<name>/<uid>/<run>."""
MAX_RUNS: Final = 20
"""Older runs of a name that are looked at; each costs a listing."""
RUNS_NAMED: Final = 3


class NoSuchCheckpoint(RuntimeError):
    """Nothing can be continued from there; the message says why and what there is."""


@dataclass(frozen=True, slots=True)
class OlderRun:
    """A run of the same job's name, and its newest checkpoint."""

    path: str
    newest: Commit


def read_checkpoints(store: Store, source: str) -> list[Commit]:
    """Return what a run's folder, or one checkpoint's, has to give: paths from the storage's root.

    Raises:
        NoSuchCheckpoint: nothing that counts is there.
        OSError: the storage cannot be read.
    """
    parts = source.strip("/").split("/")
    run, below = "/".join(parts[:RUN_PARTS]), "/".join(parts[RUN_PARTS:])
    try:
        alive = Journal(store, run).read().alive
    except ContractError as error:
        raise NoSuchCheckpoint(f"the journal of {run} cannot be read: {error}") from error
    if not alive:
        raise NoSuchCheckpoint(
            f"{run} is no run with checkpoints; a run's folder is <namespace>/<name>/<uid>/<run>,"
            " and a job shows its newest checkpoint's in status.checkpoint.path"
        )
    found = [commit for commit in alive if below in ("", commit.path)]
    if not found:
        known = ", ".join(commit.path for commit in alive[-5:])
        raise NoSuchCheckpoint(f"{run} has no checkpoint {below} that counts; its newest: {known}")
    return [replace(commit, path=_from_root(run, commit.path), adopted=True) for commit in found]


def find_older_runs(store: Store, job: JobRef, run: str) -> list[OlderRun]:
    """Return runs of a job's name that have checkpoints, newest first, but for the run itself.

    One that cannot be read is left out.

    Raises:
        OSError: the storage cannot be listed.
    """
    found = []
    for path in _runs_of(store, f"{job.namespace}/{job.name}"):
        if path == f"{job.namespace}/{job.name}/{job.uid}/{run}":
            continue
        try:
            alive = Journal(store, path).read().alive
        except (ContractError, OSError):
            continue  # of another release, being removed, or not ours
        if alive:
            found.append(OlderRun(path, max(alive, key=lambda commit: commit.time)))
    return sorted(found, key=lambda older: older.newest.time, reverse=True)


def describe_older_runs(older: list[OlderRun]) -> str | None:
    """Return a sentence on runs that are not continued, and how one would be; None for none."""
    if not older:
        return None
    named = ", ".join(f"{one.path} (step {one.newest.step})" for one in older[:RUNS_NAMED])
    more = f" and {len(older) - RUNS_NAMED} more" if len(older) > RUNS_NAMED else ""
    return (
        f"this run begins at step 0, though there are older ones of its name: {named}{more}; to"
        " continue one, name it: checkpoint.resume.mode: From and resume.from"
    )


def _runs_of(store: Store, folder: str) -> Iterator[str]:
    count = 0
    for uid in store.list_folders(folder):
        for run in store.list_folders(f"{folder}/{uid}"):
            yield f"{folder}/{uid}/{run}"
            count += 1
            if count == MAX_RUNS:
                return


def _from_root(run: str, path: str) -> str:
    return path if path.startswith("/") else f"/{run}/{path}"
