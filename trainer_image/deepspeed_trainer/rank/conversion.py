"""Makes a copy of a checkpoint that any number of ranks can load: once, by the first rank.

The shards go through DeepSpeed's converter, every other file is copied as it is, under the same
names.  On a volume it is written where it shall lie; with a bucket it is fetched, converted in the
pod and uploaded.  It counts when the board has committed it; until then it is nobody's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any, Final

from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.checkpoints.stores import Store, open_store
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.hooks.wire import SUPERVISOR_ENV
from deepspeed_trainer.manifest import Manifest, ManifestFile
from deepspeed_trainer.rank import rankenv
from deepspeed_trainer.rank.resume import check_file, read_manifest

OPTIMIZER_SHARD: Final = "_optim_states.pt"
MODEL_SHARD: Final = "_model_states.pt"
_TAIL_BYTES: Final = 4096
_MAX_WORKERS: Final = 4


class NotConverted(RuntimeError):
    """The checkpoint cannot be converted; the message says why."""


def convert(contract: RunContract, order: Resume) -> dict[str, Any]:
    """Convert what the board ordered; returns the fact that tells of it.

    Raises:
        Damaged: a file differs from what was saved, or is gone.
        NotConverted: DeepSpeed's converter does not take it.
        OSError: the storage cannot be read or written.
    """
    assert contract.storage is not None  # noqa: S101  without storage there is nothing to convert
    began = monotonic()
    store = open_store(contract.storage)
    manifest = read_manifest(store, order.convert)
    folder = find_shards(manifest)
    with _working_folder() as work:
        own = _collect(store, order.convert, manifest, work / "in")
        target = _clear(store, order.into) or work / "out"
        _run_converter(contract, own / folder, target / folder)
        _copy_others(manifest, folder, own, target)
        files = [
            _keep(store, target, path, f"{order.into}/{path.relative_to(target).as_posix()}")
            for path in sorted(target.rglob("*"))
            if path.is_file()
        ]
    return {
        "kind": "converted",
        "number": order.number,
        "source": order.convert,
        "path": order.into,
        "files": [file.to_wire() for file in files],
        "seconds": round(monotonic() - began, 3),
    }


def find_shards(manifest: Manifest) -> str:
    """Return the folder of a checkpoint in which DeepSpeed's shards lie, one for each rank.

    Raises:
        NotConverted: there is none, or more than one, or shards are missing.
    """
    shards = [PurePosixPath(f.path) for f in manifest.files if f.path.endswith(OPTIMIZER_SHARD)]
    folders = {path.parent.as_posix() for path in shards}
    if len(folders) != 1:
        raise NotConverted(f"it has {len(folders)} folders with optimizer shards of DeepSpeed's")
    if len(shards) != manifest.world_size:
        raise NotConverted(
            f"it has {len(shards)} optimizer shards and was saved by {manifest.world_size} ranks"
        )
    return folders.pop()


@contextmanager
def _working_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dsjob-convert-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _collect(store: Store, path: str, manifest: Manifest, into: Path) -> Path:
    """Bring exactly the manifest's files into a folder, each read once and compared."""
    for file in manifest.files:
        check_file(path, file, store.fetch(f"{path}/{file.path}", into / file.path))
    return into


def _clear(store: Store, path: str) -> Path | None:
    """Return the place of a folder on a volume, without what a start before left; None elsewhere.

    In a bucket a half-made copy is written over name by name; names follow from the checkpoint.
    """
    place = store.place_of(path)
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
    return place


def _run_converter(contract: RunContract, source: Path, target: Path) -> None:
    workers = max(1, min(_MAX_WORKERS, int(contract.cpus_per_rank)))
    env = {**os.environ, "DS_ACCELERATOR": "cpu", SUPERVISOR_ENV: str(os.getpid())}
    env["PYTHONPATH"] = rankenv.prepend_path(env, rankenv.RANK_SITE)
    command = [sys.executable, "-m", "deepspeed_trainer.rank.universal"]
    words = [*command, str(source), str(target), str(workers)]
    log = (rankenv.log_folder(contract) or source.parent) / "convert.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+b") as out:
        run = subprocess.run(
            words, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
        )
        if run.returncode != 0:
            out.seek(-min(_TAIL_BYTES, out.seek(0, os.SEEK_END)), os.SEEK_END)
            last = out.read().decode(errors="replace").strip().splitlines() or ["no output"]
            code = run.returncode
            raise NotConverted(f"DeepSpeed's converter ended with exit code {code}: {last[-1]}")


def _copy_others(manifest: Manifest, folder: str, source: Path, target: Path) -> None:
    """Copy what is no shard: random states, a trainer's state, `latest`."""
    for file in manifest.files:
        path = PurePosixPath(file.path)
        is_shard = path.name.endswith((OPTIMIZER_SHARD, MODEL_SHARD))
        if not (is_shard and path.parent.as_posix() == folder):
            (target / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file.path, target / file.path)


def _keep(store: Store, target: Path, path: Path, name: str) -> ManifestFile:
    return ManifestFile(
        path=path.relative_to(target).as_posix(),
        size_bytes=path.stat().st_size,
        sha256=store.keep(path, name),
        rank=0,
    )
