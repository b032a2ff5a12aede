"""Brings what one rank saves to the job's storage, beside the program and behind its back.

The program waits only until its files are pinned (see checkpoints.files).  Which save is then
brought to the storage is the board's decision, the same for all ranks: one at a time, and of those
that wait only the newest.
"""

import shutil
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from deepspeed_trainer.checkpoints import files
from deepspeed_trainer.checkpoints.files import Pin, pod_folder
from deepspeed_trainer.checkpoints.held import NEWEST, Held, HeldFile, record_path, write_record
from deepspeed_trainer.checkpoints.logparts import LogParts
from deepspeed_trainer.checkpoints.names import CHECKPOINTS, name_checkpoint
from deepspeed_trainer.checkpoints.stores import open_store
from deepspeed_trainer.contract import RunContract, attempt_path, run_path
from deepspeed_trainer.manifest import NOT_LOOKED_AT, ManifestFile

Fact = Mapping[str, Any]
CROWDED: Final = (
    "saves that wait for their upload hold more of the pod's disk than is left free; save less"
    " often, or give the workers more ephemeral storage"
)
SAVES_PER_ROUND: Final = 1_000_000
"""More than a program will ever save between two restarts."""


@dataclass(slots=True)
class HeldSave:
    """One save of this rank: what is pinned, and where it shall lie below the store's root."""

    number: int
    path: str
    fact: Fact
    pins: dict[str, Pin] = field(default_factory=dict)
    blocked_s: float = 0.0
    is_closed: bool = False
    within: str = ""
    """The framework's method that has not ended this save yet."""

    def reported_below(self, folder: Path) -> list[Path]:
        """Return the files of a report that Ray has put below a folder; a save has none."""
        found = [pin.at for pin in self.pins.values() if pin.at == pin.source]
        return [path for path in found if path.is_relative_to(folder)]


class Keeper:
    """The saves of one rank; facts come from the program's thread, orders from the board's."""

    def __init__(
        self, contract: RunContract, rank: int, restart: int, tell: Callable[[Fact], None]
    ) -> None:
        """Saves are counted anew at each restart: ranks that were stopped had not saved alike."""
        self._rank = rank
        self._tell = tell
        self._run = run_path(contract.job, contract.run)
        self._epoch = contract.attempt
        self._restart = restart
        self._is_the_rank = contract.entrypoint.kind.is_in_process
        self._attempt = attempt_path(contract.job, contract.run, contract.attempt)
        self._root = Path(contract.storage or "/")
        self._store = open_store(contract.storage) if contract.storage else None
        is_bucket = self._store is not None and self._store.place_of("") is None
        self._logs = LogParts(self._store, self._attempt) if self._store and is_bucket else None
        self._waiting_logs: set[Path] = set()
        self._lock = threading.RLock()
        self._saves: dict[int, HeldSave] = {}
        self._number = restart * SAVES_PER_ROUND
        self._ordered = 0
        self._pod_folder = pod_folder(contract.submission_id)
        self._spent: list[Path] = []
        """Files of reports that are in the bucket by now, or will never be asked for."""
        self._left: deque[Held] = deque(maxlen=NEWEST)
        """The newest closed saves, for whoever finds this process killed."""
        self._staging = Path(tempfile.mkdtemp(prefix="dsjob-staging-"))
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._is_first = False
        self._others: Mapping[Path, files.Stamp] = {}

    def note_start(self, local_rank: int, others: Mapping[Path, files.Stamp] | None = None) -> None:
        """Take this rank's place on its pod, before its program runs.

        `others` are files that were put back here and that another rank had brought: they are its
        own until they are written to here.
        """
        self._is_first = local_rank == 0
        self._others = others or {}

    def note_saved(self, fact: Fact) -> None:
        """Pin the files of a save that has just returned; what fails is told, never raised."""
        if self._store is None:
            return
        began = monotonic()
        with self._lock:
            self._number += 1
            if fact.get("lacks"):
                self._tell_lost(self._number, fact["lacks"], lacks_room=True)
                return
            if self._is_crowded():
                self._tell_lost(self._number, f"step {fact['step']}: {CROWDED}", is_crowded=True)
                return
            save = HeldSave(self._number, self._path_of(self._number, fact), fact)
            save.within = fact.get("within", "")
            self._saves[save.number] = save
            self._try(save, self._pin_first)
            self._clear_spent(save)
            save.blocked_s += monotonic() - began

    def note_whole(self) -> None:
        """A framework has ended its save: it has all that it needs, though it may stay open."""
        with self._lock:
            for save in self._open_saves():
                save.within = ""

    def note_closed(self, *, has_failed: bool = False) -> None:
        """No file is added to earlier saves any more: pin what came after, and tell the board.

        Where the program has failed, a save that its framework had not ended is half, and lost.
        """
        with self._lock:
            for save in self._open_saves():
                if has_failed and save.within:
                    ended = f"the program ended before {save.within} had ended its save"
                    self._tell_lost(save.number, f"step {save.fact['step']}: {ended}")
                    self._drop(save)
                    continue
                began = monotonic()
                self._try(save, self._pin)
                save.is_closed = True
                if self._is_the_rank and save.number in self._saves:
                    self._try(save, self._leave_record)
                save.blocked_s += monotonic() - began
                self._tell(self._describe(save))

    def forget_below(self, folder: str) -> None:
        """Drop open saves that lie in a folder which is handed over as a whole."""
        root = Path(folder).resolve()
        with self._lock:
            for save in self._open_saves():
                if Path(save.fact["folder"]).resolve().is_relative_to(root):
                    self._drop(save)

    def _open_saves(self) -> list[HeldSave]:
        return [save for save in self._saves.values() if not save.is_closed]

    def obey(self, upload: int, newest: int) -> None:
        """Bring save `upload` to the storage; of older ones than `newest` nobody will ask."""
        with self._lock:
            for save in [s for s in self._saves.values() if s.is_closed and s.number < newest]:
                if save.number not in (upload, self._ordered):
                    self._drop(save)
            if upload > self._ordered:
                self._ordered = upload
                self._worker.submit(self._bring, upload)

    def bring_log(self, log: Path | None, folder: str = "logs") -> None:
        """Upload what is new of a log to a bucket, now or after the save that is on its way.

        `folder` is below the attempt's.
        """
        if log is None or self._logs is None or log in self._waiting_logs:
            return
        self._waiting_logs.add(log)
        self._worker.submit(self._upload_log, self._logs, log, folder)

    def finish(self) -> None:
        """Wait for what was asked for until now."""
        self._worker.submit(lambda: None).result()

    def _upload_log(self, logs: LogParts, log: Path, folder: str) -> None:
        self._waiting_logs.discard(log)
        try:
            logs.bring(log, folder)
        except Exception as error:  # noqa: BLE001  a log is not worth a training
            sys.stderr.write(f"{log.name} was not uploaded: {error}\n")

    def close(self) -> None:
        """Stop; what is not brought by now is dropped, unless the head may finish it."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        # A rank that fails may leave before another has told that it holds the same save.
        left = {self._ordered, *(held.fact["number"] for held in self._left)}
        with self._lock:
            for save in [save for save in self._saves.values() if save.number not in left]:
                self._drop(save)
        shutil.rmtree(self._staging, ignore_errors=True)

    def _path_of(self, number: int, fact: Fact) -> str:
        """Return the same path on all ranks: they save in step, or Ray has put it on the volume."""
        folder = Path(fact["folder"])
        if "paths" in fact and folder.is_relative_to(self._root):
            return folder.relative_to(self._root).as_posix()
        name = name_checkpoint(fact["step"], self._epoch, number)
        return f"{self._run}/{CHECKPOINTS}/{name}"

    def _pin_first(self, save: HeldSave) -> None:
        self._pin(save)
        # Without ZeRO rank 0 alone writes; from stage 1 on every rank has optimizer states.
        if save.fact.get("only") and save.fact["zero_stage"] and not save.pins:
            raise FileNotFoundError(f"nothing of this rank lies in {save.fact['folder']}")

    def _pin(self, save: HeldSave) -> None:
        """Pin every own file of a save that is new, or another than before."""
        root = Path(save.fact["folder"])
        final = self._store.place_of(save.path) if self._store else None
        staging = self._staging / str(save.number)
        places = [final, staging] if final else [staging]
        for file in _members(save.fact):
            path = file.relative_to(root).as_posix()
            known = save.pins.get(path)
            if not self._is_own(save.fact, path, file) or (known and not known.is_stale()):
                continue
            if "paths" in save.fact:
                save.pins[path] = Pin(path, file, file, files.stamp_of(file))
            else:
                save.pins[path] = files.pin(file, path, places)

    def _leave_record(self, save: HeldSave) -> None:
        """Write down what lies on the volume; a copy in the pod's own folder is not there."""
        volume = self._store.place_of("") if self._store else None
        pins = save.pins.values()
        if volume is None or not pins or not all(pin.at.is_relative_to(volume) for pin in pins):
            return
        lying = tuple(HeldFile(p.path, p.size_bytes, p.at.stat().st_mtime_ns) for p in pins)
        self._left.append(Held(self._restart, self._describe(save), lying))
        write_record(volume / record_path(self._attempt, self._rank), self._left)

    def _is_own(self, fact: Fact, path: str, file: Path) -> bool:
        if "paths" in fact or not files.is_shared(path):
            return "paths" in fact or files.owner_of(path) == self._rank
        if self._rank != 0 and not (self._is_first and files.is_anyones(path)):
            return False
        if self._rank != 0 and self._is_on_volume(file):
            return False
        return file not in self._others or files.stamp_of(file) != self._others[file]

    def _is_on_volume(self, file: Path) -> bool:
        """Whether rank 0 sees it too: every pod has the job's volume, and a disk of its own."""
        volume = self._store.place_of("") if self._store else None
        return volume is not None and file.resolve().is_relative_to(volume.resolve())

    def _bring(self, number: int) -> None:
        """Hash and upload a save's files, in the background."""
        with self._lock:
            save = self._saves.get(number)
        if save is None:
            self._tell_lost(number, "it is gone")
            return
        if self._try(save, self._bring_files):
            with self._lock:
                self._saves.pop(number, None)
                shutil.rmtree(self._staging / str(number), ignore_errors=True)
                self._spent += save.reported_below(self._pod_folder)

    def _detach_loose(self, save: HeldSave) -> None:
        """Copy what lies beside the tag, before the program writes there again."""
        tag = save.fact.get("only", "")
        for path, pin in save.pins.items():
            if files.is_loose(path, tag) and not pin.is_copy and pin.at != pin.source:
                save.pins[path] = files.detach(pin)

    def _bring_files(self, save: HeldSave) -> None:
        assert self._store is not None  # noqa: S101  a save is held only where there is storage
        if self._store.place_of("") is not None:
            self._detach_loose(save)
        brought = [
            ManifestFile(
                path=pin.path,
                size_bytes=pin.size_bytes,
                sha256=self._store.keep(pin.at, f"{save.path}/{pin.path}"),
                rank=self._rank,
            )
            for pin in save.pins.values()
        ]
        changed = [pin.path for pin in save.pins.values() if pin.has_changed()]
        if changed:
            raise OSError(f"{changed[0]} was written to before it was on the storage")
        wire = [file.to_wire() for file in brought]
        self._tell(
            {"kind": "brought", "number": save.number, "step": save.fact["step"], "files": wire}
        )

    def _try(self, save: HeldSave, act: Callable[[HeldSave], None]) -> bool:
        try:
            act(save)
        except Exception as error:  # noqa: BLE001  training goes on; the board is told why
            message = f"step {save.fact['step']}: {type(error).__name__}: {error}"[:500]
            self._tell_lost(save.number, message, lacks_room=files.lacks_room(error))
            if save.number in self._saves:
                self._drop(save)
            return False
        return True

    def _tell_lost(
        self, number: int, message: str, *, lacks_room: bool = False, is_crowded: bool = False
    ) -> None:
        why = {"lacks_room": lacks_room, "is_crowded": is_crowded}
        self._tell({"kind": "save_lost", "number": number, "message": message, **why})

    def _is_crowded(self) -> bool:
        """Whether saves on their way to a bucket hold as much of the pod's disk as is left of it.

        What the program still has itself is held by a second name and takes up no room.
        """
        if self._store is None or self._store.place_of("") is not None:
            return False
        pins = [pin for save in self._saves.values() for pin in save.pins.values()]
        alone_bytes = sum(
            pin.size_bytes for pin in pins if pin.at != pin.source and pin.at.stat().st_nlink == 1
        )
        return alone_bytes > shutil.disk_usage(self._staging).free

    def _drop(self, save: HeldSave) -> None:
        """A save that will never count: take its pins off the volume too."""
        del self._saves[save.number]
        for pin in save.pins.values():
            if pin.at != pin.source and self._store and self._store.place_of(save.path):
                self._store.remove(f"{save.path}/{pin.path}")
        shutil.rmtree(self._staging / str(save.number), ignore_errors=True)
        self._spent += save.reported_below(self._pod_folder)

    def _clear_spent(self, save: HeldSave) -> None:
        """Remove Ray's copies of older reports from the pod's disk; the newest may be asked for."""
        if save.pins and save.reported_below(self._pod_folder):
            for file in self._spent:
                file.unlink(missing_ok=True)
            self._spent = []

    def _describe(self, save: HeldSave) -> Fact:
        names = ("tag", "step", "zero_stage", "source")
        told = {name: save.fact.get(name, "") for name in names}
        size = sum(pin.size_bytes for pin in save.pins.values())
        return {
            "kind": "closed",
            "number": save.number,
            "path": save.path,
            "report": "paths" in save.fact,
            "blocked_s": round(save.blocked_s, 6),
            "wrote_s": save.fact.get("wrote_s", 0.0),
            "size_bytes": size,
            "batch": save.fact.get("batch"),
            "unresizable": save.fact.get("unresizable", NOT_LOOKED_AT),
            **told,
        }


def _members(fact: Fact) -> Iterator[Path]:
    """Return the files of a save: named ones, or those of its tag and loose ones beside it."""
    root = Path(fact["folder"])
    if "paths" in fact:
        yield from (root / path for path in fact["paths"])
    elif fact.get("only"):
        yield from files.files_below(root / fact["only"])
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                yield path
    else:
        yield from files.files_below(root)
