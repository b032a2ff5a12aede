"""The job's storage as the head uses it: the epoch, the choice, commits and what may go.

One writer for a whole attempt, so that a checkpoint counts at one moment and for everybody.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from deepspeed_trainer.board.choosing import Choosing, read_manifest
from deepspeed_trainer.board.eventfile import EventFile
from deepspeed_trainer.board.leftsaves import find_left_saves
from deepspeed_trainer.board.saves import OpenSaves, Save
from deepspeed_trainer.checkpoints.journal import (
    Commit,
    CommitKind,
    EntryKind,
    Journal,
)
from deepspeed_trainer.checkpoints.names import CHECKPOINTS, find_litter
from deepspeed_trainer.checkpoints.retention import find_surplus
from deepspeed_trainer.checkpoints.stores import Store, open_store
from deepspeed_trainer.contract import (
    MANIFEST_FILE,
    RunContract,
    attempt_path,
    run_path,
)
from deepspeed_trainer.manifest import Manifest, ManifestFile


class RunStorage:
    """The storage of one attempt's run; used from the board's thread alone."""

    def __init__(self, contract: RunContract, now: float) -> None:
        """Open the attempt's epoch.

        Raises:
            Superseded: a newer attempt has.
            OSError: the storage cannot be used.
        """
        assert contract.storage is not None  # noqa: S101  the caller asked
        self._contract = contract
        # A head that waits for a bucket hears no rank; these end when they hear nothing from it.
        self._store: Store = open_store(contract.storage, patience_s=contract.deadman_s / 6)
        self._run = run_path(contract.job, contract.run)
        self._journal = Journal(self._store, self._run)
        self._journal.open_epoch(contract.attempt, now)
        self.choosing = Choosing(self._store, self._journal, contract)
        self.choosing.look_around()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="storage")
        attempt = attempt_path(contract.job, contract.run, contract.attempt)
        self._events = EventFile(self._store, attempt)

    def note_event(self, line: str, now: float) -> None:
        """Add a line to the attempt's events.jsonl.

        Raises:
            OSError: the volume cannot be written.
        """
        self._events.add(line)
        if self._events.is_due(now):
            self._background.submit(self._events.upload)

    def finish(self) -> None:
        """The attempt has ended: bring what is left of its events to the storage."""
        try:
            self._background.submit(self._events.upload).result()
        except OSError as error:
            print(f"the last events stay here: {error}", flush=True)  # noqa: T201  Ray's log

    def commit_converted(
        self, source: str, path: str, files: tuple[ManifestFile, ...], now: float
    ) -> str:
        """Make a converted copy count beside what it was made from; returns a sentence on it.

        Both paths are below the storage's root.

        Raises:
            Superseded, OSError: as `commit`.
        """
        below = self.choosing.below_run(source)
        commit = next(one for one in self._journal.record.alive if one.path == below)
        manifest = read_manifest(self._store, source)
        if manifest is None:
            raise FileNotFoundError(f"{source}/{MANIFEST_FILE} was there a moment ago")
        attempt = self._contract.attempt
        copied = replace(manifest, files=files, universal=True, time=now, attempt=attempt)
        self._store.write(f"{path}/{MANIFEST_FILE}", copied.to_json().encode())
        converted = replace(
            commit,
            path=path.removeprefix(f"{self._run}/"),
            time=now,
            size_bytes=sum(file.size_bytes for file in files),
            universal=True,
        )
        self._journal.note(EntryKind.COMMITTED, now, commits=(converted,))
        return (
            f"checkpoint {below} of step {commit.step}, saved by {commit.world_size} ranks, was"
            f" converted for {self._contract.world_size}"
        )

    def commit(
        self, save: Save, versions: Mapping[str, str], metrics: Mapping[str, str], now: float
    ) -> None:
        """Make a save count: its manifest first, then the journal.

        Raises:
            Superseded: a newer attempt has begun.
            OSError: the storage cannot be written.
        """
        files = self._unite([f for rank in sorted(save.files) for f in save.files[rank]], save.path)
        manifest = Manifest(
            step=save.step,
            tag=save.tag,
            world_size=self._contract.world_size,
            zero_stage=save.zero_stage,
            attempt=self._contract.attempt,
            time=now,
            versions=versions,
            files=files,
            source=save.source,
            batch=save.batch,
            unresizable=save.unresizable,
        )
        self._store.write(f"{save.path}/{MANIFEST_FILE}", manifest.to_json().encode())
        commit = Commit(
            path=save.path.removeprefix(f"{self._run}/"),
            step=save.step,
            tag=save.tag,
            epoch=self._contract.attempt,
            world_size=self._contract.world_size,
            time=now,
            size_bytes=sum(file.size_bytes for file in files),
            kind=CommitKind.REPORT if save.is_report else CommitKind.SAVE,
            metrics=metrics,
        )
        self._journal.note(EntryKind.COMMITTED, now, commits=(commit,))

    def find_left(self, restart: int, known: OpenSaves) -> Iterator[Save]:
        """Yield saves that ranks held when they were killed, newest first; see `leftsaves`."""
        return find_left_saves(self._store, self._contract, restart, known)

    def remove_surplus(self, now: float) -> list[str]:
        """Delete what retention no longer wants; returns the paths, files go in the background."""
        alive, keep = self._journal.record.alive, self._contract.keep
        surplus = find_surplus(alive, keep, self.choosing.resumed_from)
        for commit in surplus:
            self._journal.note(EntryKind.DELETED, now, path=commit.path, reason="retention")
            self._background.submit(self.delete_files, f"{self._run}/{commit.path}")
        return [commit.path for commit in surplus]

    def sweep(self, below: int) -> None:
        """Remove what saves have left that will never count; files go in the background.

        Those of attempts before, and this attempt's before the save of a number: every rank has
        brought that one by now, and so works on none before it.

        Raises:
            OSError: the storage cannot be read.
        """
        if self._journal.is_newest():
            counting = {commit.path for commit in self._journal.record.alive}
            self._background.submit(self._remove_litter, below, counting)

    def _remove_litter(self, below: int, counting: AbstractSet[str]) -> None:
        try:
            names = self._store.list_folders(f"{self._run}/{CHECKPOINTS}")
            for name in find_litter(names, self._contract.attempt, below):
                path = f"{CHECKPOINTS}/{name}"
                if path not in counting:
                    self._remove_uncommitted(f"{self._run}/{path}")
        except OSError as error:
            print(f"what given-up saves left stays: {error}", flush=True)  # noqa: T201  Ray's log

    def _remove_uncommitted(self, path: str) -> None:
        """Remove a folder's files, unless a manifest names them: that is left for people to see."""
        names = self._store.list_sizes(path)
        for name in names if MANIFEST_FILE not in names else ():
            self._store.remove(f"{path}/{name}")

    def delete_files(self, path: str) -> None:
        """Delete a checkpoint, its manifest first, and the program's own names of its files.

        On a volume a large file has both names, and only without both is its room free.
        """
        manifest = read_manifest(self._store, path)
        self._store.remove(f"{path}/{MANIFEST_FILE}")
        if manifest is None:
            return
        saved = f"{self._run}/attempt-{manifest.attempt}/checkpoints/{manifest.source}"
        for file in manifest.files:
            kept, own = (self._store.place_of(f"{at}/{file.path}") for at in (path, saved))
            if kept and own and own.exists() and own.samefile(kept):
                self._store.remove(f"{saved}/{file.path}")
            self._store.remove(f"{path}/{file.path}")

    def _unite(self, files: Sequence[ManifestFile], path: str) -> tuple[ManifestFile, ...]:
        """Return every file once; what several ranks wrote is read again, now that all are done."""
        found: dict[str, ManifestFile] = {}
        for file in files:
            before = found.setdefault(file.path, file)
            if before.sha256 == file.sha256:
                continue
            size, digest = self._read_again(f"{path}/{file.path}")
            found[file.path] = replace(before, size_bytes=size, sha256=digest)
        return tuple(found.values())

    def _read_again(self, path: str) -> tuple[int, str]:
        with tempfile.TemporaryDirectory(prefix="dsjob-unite-") as folder:
            local = Path(folder) / "file"
            digest = self._store.fetch(path, local)
            return local.stat().st_size, digest
