"""Puts the chosen checkpoint where the program looks for it, and reads it through once.

Each rank reads its own files, so that damage is found before the program starts and all ranks can
fall back together.  Files without a rank in their name are brought by one rank for all that share
its folder.
"""

import errno
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from deepspeed_trainer.batching import refit
from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.checkpoints.files import (
    Stamp,
    is_anyones,
    is_loose,
    is_shared,
    owner_of,
    pod_folder,
    stamp_of,
)
from deepspeed_trainer.checkpoints.journal import Journal
from deepspeed_trainer.checkpoints.stores import Store, hash_file, open_store
from deepspeed_trainer.contract import MANIFEST_FILE, EntrypointKind, RunContract, run_path
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.hooks.universal import CONVERTED_DIR
from deepspeed_trainer.manifest import Manifest, ManifestFile
from deepspeed_trainer.rank import rankenv

_NUMBERED: Final = re.compile(r"checkpoint-(\d+)")
_STATES: Final = "_states.pt"
"""In the names of DeepSpeed's shards."""
_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY)
_brought: set[Path] = set()
"""Where this process has put a checkpoint, of all that were chosen."""
LATEST_FILE: Final = "latest"
"""DeepSpeed's own pointer: the tag that load_checkpoint takes when it is given none."""


class Damaged(RuntimeError):
    """A file of a committed checkpoint is not what was saved; the message names it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def prepare(
    contract: RunContract, rank: int, local_rank: int, resume: Resume
) -> tuple[Resumed, list[ManifestFile]]:
    """Bring what a rank needs of the chosen checkpoint.

    Returns what its program is told, and the files that were read and are what was saved.

    Raises:
        Damaged: a file differs from what was saved, or is gone.
        OSError: the storage cannot be read, or the place cannot be written.
    """
    if not resume.save and (contract.storage is not None or contract.resume == "Never"):
        _set_aside_all(contract, is_report_chosen=bool(resume.report))
    if contract.storage is None or not (resume.save or resume.report):
        return Resumed(), []
    store = open_store(contract.storage)
    manifests: list[Manifest] = []
    told = Resumed(step=resume.step, attempt=resume.attempt, path=resume.save or resume.report)
    read: list[ManifestFile] = []
    if resume.save:
        manifest = read_manifest(store, resume.save)
        manifests.append(manifest)
        target = _place(contract, manifest.source)
        is_seen_by_all = _is_seen_by_all(store, target)
        is_first = rank == 0 if is_seen_by_all else local_rank == 0
        _set_aside_newer(target, target.parent.glob("checkpoint-*") if is_first else _brought)
        _brought.add(target)
        if is_first:
            shutil.rmtree(target / manifest.tag / CONVERTED_DIR, ignore_errors=True)
        files = _files_for(manifest, rank, brings_shared=is_first)
        read += _fetch(store, resume.save, files, target, manifest.tag)
        others = {} if is_seen_by_all else _find_others(manifest, rank, target)
        told = replace(told, folder=str(target), tag=manifest.tag, others=others)
    if resume.report:
        manifest = read_manifest(store, resume.report)
        manifests.append(manifest)
        place = store.place_of(resume.report)
        if place is None:
            place = pod_folder(contract.submission_id) / "reported" / Path(resume.report).name
            files = _files_for(manifest, rank, brings_shared=local_rank == 0)
            read += _fetch(store, resume.report, files, place)
        else:
            for file in manifest.files_of(rank):
                check_file(resume.report, file, hash_file(place / file.path))
                read.append(file)
        told = replace(told, report=str(place))
    batch = _derive_batch(manifests[0], contract.world_size)
    adopted = _is_adopted(contract, store, told.path, manifests[0])
    return replace(told, batch=batch, adopted=adopted), read


def _is_adopted(contract: RunContract, store: Store, path: str, manifest: Manifest) -> bool:
    """Return whether another run had saved a checkpoint; of a converted copy the journal tells."""
    run = run_path(contract.job, contract.run)
    if not manifest.universal or not path.startswith(f"{run}/"):
        return not path.startswith(f"{run}/")
    alive = Journal(store, run).read().alive
    return any(commit.adopted and f"{run}/{commit.path}" == path for commit in alive)


def _find_others(manifest: Manifest, rank: int, folder: Path) -> dict[Path, Stamp]:
    others = (file.path for file in manifest.files if file.rank != rank and is_anyones(file.path))
    paths = (folder / path for path in others)
    return {path: stamp_of(path) for path in paths if path.is_file()}


def _is_seen_by_all(store: Store, folder: Path) -> bool:
    volume = store.place_of("")
    return volume is not None and folder.is_relative_to(volume)


def _fetch(
    store: Store, path: str, files: Iterable[ManifestFile], target: Path, tag: str = ""
) -> list[ManifestFile]:
    """Bring files of a checkpoint, each compared with its manifest; returns them.

    What lies beside the tag the program may write to at any time, so it gets no link to that.
    """
    read = []
    for file in files:
        links = not is_loose(file.path, tag)
        found = store.fetch(f"{path}/{file.path}", target / file.path, links=links)
        check_file(path, file, found)
        read.append(file)
    return read


def _derive_batch(manifest: Manifest, world_size: int) -> tuple[int, ...]:
    """Return what `Resumed.batch` says; nothing while the ranks are as many as before."""
    if manifest.batch is None or manifest.world_size == world_size:
        return ()
    batch = refit(manifest.batch, world_size)
    return batch.train, batch.micro, batch.accumulation


def _files_for(manifest: Manifest, rank: int, *, brings_shared: bool) -> Iterator[ManifestFile]:
    """Return a rank's own files, and those of all where it brings them.

    Below ZeRO-3 a rank may read any other's, and what was converted is everybody's, so the first
    rank of a folder brings all.
    """
    is_for_all = manifest.zero_stage < 3 or manifest.universal
    for file in manifest.files:
        # A report's file may have been handed in by another rank than the one that wrote it.
        is_own = owner_of(file.path) == rank and not is_shared(file.path)
        if is_own or (brings_shared and (is_shared(file.path) or is_for_all)):
            yield file


def _set_aside_newer(chosen: Path, folders: Iterable[Path]) -> None:
    """Rename what a start before saved later than `chosen` and what never counted.

    Transformers continues from the highest checkpoint-N in its folder, whole or not.  Every rank
    looks at what it has brought itself: it may have been at an older choice still, and have made
    its folder again after the first rank had set that aside.
    """
    number = _NUMBERED.fullmatch(chosen.name)
    for other in list(folders) if number else ():
        found = _NUMBERED.fullmatch(other.name)
        is_beside = other.parent == chosen.parent
        if number and found and is_beside and int(found[1]) > int(number[1]):
            _rename(other, other.with_name(f"uncounted-{other.name}"))


def _set_aside_all(contract: RunContract, *, is_report_chosen: bool) -> None:
    """Move what a start before left, and what never counted or is not wanted, out of sight.

    Programs look for their saves below this folder in many ways, so it is moved beside it.  A
    driver program's own process may have written to the folder just now: there only saves move.
    Who continues from a report is not looking for saves, but for a stray `latest`.
    """
    folder = rankenv.program_checkpoint_dir(contract)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if is_report_chosen:
        found = [left for left in found if left.name == LATEST_FILE]
    elif contract.entrypoint.kind is EntrypointKind.DRIVER:
        found = [left for left in found if _holds_save(left)]
    counting = _find_counting(contract) if found else []
    aside = folder.with_name(f"uncounted-{folder.name}")
    for left in found:
        if not any(place.is_relative_to(left) for place in counting):
            aside.mkdir(exist_ok=True)
            _rename(left, aside / left.name)


def _find_counting(contract: RunContract) -> list[Path]:
    """Return where the run's checkpoints lie; a report is one at the place that Ray gave it."""
    if contract.storage is None:
        return []
    store, run = open_store(contract.storage), run_path(contract.job, contract.run)
    volume = store.place_of("")
    alive = Journal(store, run).read().alive if volume is not None else ()
    return [Path(volume or "/", run, commit.path) for commit in alive]


def _holds_save(left: Path) -> bool:
    if left.name == LATEST_FILE or _NUMBERED.fullmatch(left.name):
        return True
    return any(path.name == LATEST_FILE or _STATES in path.name for path in left.rglob("*"))


def _rename(left: Path, target: Path) -> None:
    """Give a file or folder a name, or the first free one like it; another rank may do so too."""
    names = (target.with_name(f"{target.name}-{number}") for number in itertools.count(2))
    for free in itertools.chain((target,), names):
        if free.exists():
            continue
        try:
            left.rename(free)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            continue
        return


def _place(contract: RunContract, source: str) -> Path:
    """Return where the program had saved; a path below its checkpoint folder follows that."""
    return rankenv.program_checkpoint_dir(contract) / source


def read_manifest(store: Store, path: str) -> Manifest:
    """Return a checkpoint's manifest.

    Raises:
        Damaged: it is gone.
    """
    data = store.read(f"{path}/{MANIFEST_FILE}")
    if data is None:
        raise Damaged(path, f"{path}/{MANIFEST_FILE} is gone")
    return Manifest.from_json(data)


def check_file(path: str, file: ManifestFile, found: str) -> None:
    """Compare a file's sha256 with the manifest's.

    Raises:
        Damaged: it is another.
    """
    if found != file.sha256:
        raise Damaged(path, f"{path}/{file.path} has sha256 {found}, saved was {file.sha256}")
