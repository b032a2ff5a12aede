"""Finishes what ranks held when their processes were killed: hashed by the head, then a save.

Only where Ray's worker is the rank, on a volume, and while the pods are there: see
`checkpoints.held`.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from deepspeed_trainer.board.saves import OpenSaves, Save
from deepspeed_trainer.checkpoints.held import Held, read_record, record_path
from deepspeed_trainer.checkpoints.stores import Store, hash_file
from deepspeed_trainer.contract import ContractError, ManifestFile, RunContract, attempt_path

READERS: Final = 4
"""Files that are hashed at a time; no rank runs meanwhile."""


def find_left_saves(
    store: Store, contract: RunContract, restart: int, known: OpenSaves
) -> Iterator[Save]:
    """Yield saves that all ranks of a round had closed and nobody has brought, newest first."""
    ranks = range(contract.world_size)
    attempt = attempt_path(contract.job, contract.run, contract.attempt)
    held = {rank: _read(store, record_path(attempt, rank), restart) for rank in ranks}
    numbers = {number for saves in held.values() for number in saves}
    for number in sorted(numbers, reverse=True):
        own = {rank: saves[number] for rank, saves in held.items() if number in saves}
        without_files = known.without_files(number)
        is_whole = all(rank in own or rank in without_files for rank in ranks)
        if is_whole and not known.is_settled(number):
            save = _build(store, own)
            if save is not None:
                yield save


def _read(store: Store, path: str, restart: int) -> Mapping[int, Held]:
    data = store.read(path)
    try:
        saves = read_record(data) if data is not None else ()
    except ContractError:
        return {}  # it was being written when the power went; then nothing is known
    return {_number(save): save for save in saves if save.restart == restart}


def _number(save: Held) -> int:
    return int(str(save.fact["number"]))


def _build(store: Store, held: Mapping[int, Held]) -> Save | None:
    """Return the save of all ranks, or None when they differ or a file is not what was held."""
    first, *others = held.values()
    save = Save.from_fact(first.fact)
    folder = store.place_of(save.path)
    if folder is None or any(save.differs_from(other.fact) for other in others):
        return None
    if not all(file.lies_in(folder) for one in held.values() for file in one.files):
        return None
    with ThreadPoolExecutor(READERS) as readers:
        for rank, one in held.items():
            paths = [file.path for file in one.files]
            sums = readers.map(hash_file, [Path(folder, path) for path in paths])
            sizes = [file.size_bytes for file in one.files]
            save.files[rank] = tuple(
                ManifestFile(path, size, digest, rank)
                for path, size, digest in zip(paths, sizes, sums, strict=True)
            )
    return save
