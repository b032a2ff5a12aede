"""What a run's records prove: read from the job's storage, or from a folder of this machine.

Reading is done here, judging in the trainer's `fingerprint`.  A run in a cluster is read through
its head's pod, so its cluster must still be there; a long run's records are better copied and
given as a folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepspeed_operator.cli.ends import NotThere, Unavailable, WrongUse
from deepspeed_operator.cli.picture import Job
from deepspeed_operator.cli.podfiles import Place, find_head, read_files
from deepspeed_trainer.contract import STORAGE_MOUNT, ContractError
from deepspeed_trainer.fingerprint.proof import History, compare, join
from deepspeed_trainer.fingerprint.record import (
    FOLDER,
    SIDECAR_PREFIX,
    read_segments,
    read_sidecar_lines,
)

PATTERN: Final = "rank-*.jsonl"
CHECKPOINTS: Final = "checkpoints"
_ATTEMPT: Final = re.compile(r"attempt-\d+")


@dataclass(frozen=True, slots=True)
class Report:
    """What is proven, as lines; `is_proven` is False when anything was found wrong."""

    lines: tuple[str, ...]
    is_proven: bool


def read_folder(folder: Path) -> dict[str, str]:
    """Return the records below a folder by their path, those kept with checkpoints included.

    Raises:
        NotThere: there are none.
        WrongUse: they are of more than one run, or one of them cannot be read.
    """
    paths = sorted(folder.rglob(f"{FOLDER}/{PATTERN}"))
    sidecars = sorted(folder.rglob(f"{SIDECAR_PREFIX}*.json"))
    if not paths and not sidecars:
        raise NotThere(
            f"{folder} holds no records ({FOLDER}/{PATTERN}); the program must train with"
            " deepspeed_trainer.loop.Loop"
        )
    runs = {_run_of(path) for path in (*paths, *sidecars)}
    if len(runs) > 1:
        named = ", ".join(sorted(str(run) for run in runs))
        raise WrongUse(f"{folder} holds the records of several runs, name one: {named}")
    texts = {str(path): path.read_text(errors="replace") for path in paths}
    for path in sidecars:
        try:
            texts[str(path)] = read_sidecar_lines(path.read_text(errors="replace"), str(path))
        except ContractError as error:
            raise WrongUse(f"the records cannot be read: {error}") from error
    return texts


def read_job(place: Place, name: str) -> dict[str, str]:
    """Return the records of a job's run by their path on its storage.

    Raises:
        NotThere: no such job, no storage, no records, or its clusters are gone.
        Unavailable: the pod cannot be read.
    """
    job = place.job(name)
    if job["spec"].get("storage") is None:
        raise NotThere(f"{name} has no spec.storage: its records went with its pods")
    if "uri" in job["spec"]["storage"]:
        uri, below = job["spec"]["storage"]["uri"], job["status"]["run"]["storagePath"]
        raise NotThere(
            f"{name} keeps its checkpoints in a bucket, with the records in them: copy"
            f" {uri.rstrip('/')}/{below} and give it with --path"
        )
    head = _find_any_head(place, name, job)
    run = f"{STORAGE_MOUNT}/{job['status']['run']['storagePath']}"
    texts: dict[str, str] = {}
    for attempt in job["status"]["attempts"]:
        folder = f"{run}/attempt-{attempt['number']}/{FOLDER}"
        texts.update(_read_whole(place, head, folder))
    if not texts:
        raise NotThere(
            f"{name} has written no records; the program must train with"
            " deepspeed_trainer.loop.Loop"
        )
    return texts


def understand(texts: dict[str, str]) -> History:
    """Return the history that records tell.

    Raises:
        WrongUse: a record cannot be read; the message names file, line and field.
    """
    try:
        return join(each for name, text in texts.items() for each in read_segments(text, name))
    except ContractError as error:
        raise WrongUse(f"the records cannot be read: {error}") from error


def prove(name: str, history: History) -> Report:
    """Say what a run's records prove by themselves."""
    steps, starts = len(history.steps), len(history.starts)
    worlds = sorted({start.layout.world_size for start in history.starts})
    ranks = " and ".join(str(world) for world in worlds) or "no"
    lines = [
        f"{name}: {_count(steps, 'step')}, {_count(history.samples, 'sample')},"
        f" {_count(starts, 'start')}, {ranks} ranks"
    ]
    if history.before:
        lines.append(
            f"  begins after step {history.before} with another run's checkpoint, and proves"
            " nothing of what that one did"
        )
    if history.findings:
        return Report((*lines, *(f"  {each}" for each in history.findings)), is_proven=False)
    lines.append("  no sample was skipped or repeated")
    if history.redone:
        alike = history.redone_alike
        how = "all" if alike == history.redone else f"{alike} of them"
        lines.append(f"  {_count(history.redone, 'step')} done again, {how} with the same bits")
    return Report(tuple(lines), is_proven=True)


def judge(one: History, other: History, tolerance: float | None) -> Report:
    """Say whether two runs did the same."""
    difference = compare(one, other, tolerance=tolerance)
    if difference is not None:
        return Report((difference,), is_proven=False)
    first, last = max(one.before, other.before), min(one.last, other.last)
    shared = f"steps {first + 1} to {last}" if first else f"the first {_count(last, 'step')}"
    how = "the same bits" if tolerance is None else f"losses and norms within {tolerance:g}"
    return Report((f"the same samples in {shared}, with {how}",), is_proven=True)


def _run_of(path: Path) -> Path:
    """Return the folder of the run that a record belongs to.

    A run has attempt-N/ for what its attempts write and checkpoints/ for what counts; a folder of
    a program without the operator has its records and tags directly below it.
    """
    attempts = [parent for parent in path.parents if _ATTEMPT.fullmatch(parent.name)]
    kept = [parent for parent in path.parents if parent.name == CHECKPOINTS]
    inner = [*attempts, *kept]
    return inner[0].parent if inner else path.parent.parent


def _find_any_head(place: Place, name: str, job: Job) -> str:
    """Return a running head of the job: each of them mounts the whole run."""
    pods = place.pods(name)
    attempts = job.get("status", {}).get("attempts", [])
    for attempt in reversed(attempts):
        head = find_head(pods, attempt["cluster"])
        if head is not None:
            return head
    if not attempts:
        raise NotThere(f"{name} has no attempt yet")
    storage, run = job["spec"]["storage"], job["status"]["run"]["storagePath"]
    where = f"on claim {storage['volumeClaim']} " if "volumeClaim" in storage else ""
    raise NotThere(
        f"{name} has no running head any more; its records are {where}in {run}:"
        " mount or copy that folder and give it with --path"
    )


def _read_whole(place: Place, head: str, folder: str) -> dict[str, str]:
    parts: dict[str, list[str]] = {}
    offsets: dict[str, int] = {}
    while True:
        order = {"folder": folder, "pattern": PATTERN, "offsets": offsets, "over": True}
        found = read_files(place, head, order)
        if not found:
            break
        for name, (offset, text) in found.items():
            if offset <= offsets.get(name, 0):
                raise Unavailable(f"the head's Python reads {name} backwards")
            offsets[name] = offset
            parts.setdefault(name, []).append(text)
    return {f"{folder}/{name}": "".join(texts) for name, texts in parts.items()}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
