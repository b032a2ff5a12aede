"""The journal of a run: which attempt may write, and which checkpoints count.

It is a row of small files, journal/00000001.json and on, each made by `Store.create`, so that only
one writer gets a number.  An attempt opens its epoch by taking one; a commit takes one too.  A
writer that finds a newer epoch where it wanted to write has been superseded: it commits nothing and
deletes nothing, however long it was out of touch.  This is the fence, and it needs no clock.

An epoch's entry repeats all checkpoints that are alive, and so does one now and then after it, so
that nobody reads further back.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final, Self

from deepspeed_trainer.checkpoints.stores import Store
from deepspeed_trainer.fields import Fields, read_object

FOLDER: Final = "journal"
JOURNAL_VERSION: Final = 1
MAX_ENTRY_BYTES: Final = 16 * 1024 * 1024
MAX_COMMITS: Final = 10_000
"""Of more checkpoints than an entry can hold the oldest are forgotten: left where they are."""
REPEAT_EVERY: Final = 100
"""So many entries after each other are read at most."""
_NAME: Final = re.compile(r"\d{8,}\.json")


class Superseded(RuntimeError):
    """A newer attempt has opened its epoch; this one may write no more."""


class EntryKind(StrEnum):
    """What an entry says."""

    OPENED = "Opened"
    """An attempt began, or says again, what is alive: `commits`; `reason` is Record.rejected."""
    COMMITTED = "Committed"
    """A checkpoint counts from now on."""
    REJECTED = "Rejected"
    """A checkpoint turned out to be damaged and is never taken again."""
    DELETED = "Deleted"
    """A checkpoint is being deleted."""


class CommitKind(StrEnum):
    """How a program made a checkpoint, which says how it finds it again."""

    SAVE = "Save"
    """Saved by its own framework into a folder of its own."""
    REPORT = "Report"
    """Handed to ray.train.report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A checkpoint that counts; `time` is in unix seconds.

    `path` is below the run's folder; one that begins with `/` is below the storage's root.
    """

    path: str
    step: int
    tag: str
    epoch: int
    world_size: int
    time: float
    size_bytes: int = 0
    kind: CommitKind = CommitKind.SAVE
    metrics: Mapping[str, str] = field(default_factory=dict)
    """What rank 0 had reported by then, decimal text by name: what the best one is found by."""
    universal: bool = False
    """Whether it is a converted copy that any number of ranks can load; see `resize`."""
    adopted: bool = False
    """Whether another run had saved it, and this one was told to continue from it."""

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        return cls(
            path=fields.text("path", max_chars=1024, pattern=r"/?[^/\x00][^\x00]*"),
            step=fields.whole("step"),
            tag=fields.text("tag", max_chars=255),
            epoch=fields.whole("epoch", low=1, high=100_000),
            world_size=fields.whole("world_size", low=1, high=65_536),
            time=fields.number("time", low=0, high=2.0**33),
            size_bytes=fields.whole("size_bytes"),
            kind=CommitKind(fields.choice("kind", tuple(CommitKind))),
            metrics=fields.mapping("metrics"),
            universal=fields.optional_flag("universal"),
            adopted=fields.optional_flag("adopted"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the journal; which fields count depends on its kind."""

    kind: EntryKind
    epoch: int
    time: float
    commits: tuple[Commit, ...] = ()
    path: str = ""
    reason: str = ""
    writer: str = ""
    """Told by chance: an entry whose write was answered with an error can be known again."""

    def to_json(self) -> bytes:
        """Return the entry's file."""
        plain = {**asdict(self), "version": JOURNAL_VERSION}
        return json.dumps(plain, sort_keys=True, default=dict, allow_nan=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read an entry's file.

        Raises:
            ContractError: naming what is missing or out of bounds.
        """
        fields = read_object(text, max_bytes=MAX_ENTRY_BYTES, what="journal entry")
        if fields.whole("version") != JOURNAL_VERSION:
            raise fields.fail("version", f"{JOURNAL_VERSION}; another release wrote this journal")
        return cls(
            kind=EntryKind(fields.choice("kind", tuple(EntryKind))),
            epoch=fields.whole("epoch", low=1, high=100_000),
            time=fields.number("time", low=0, high=2.0**33),
            commits=tuple(
                Commit.from_fields(section)
                for section in fields.sections("commits", max_items=MAX_COMMITS)
            ),
            path=fields.text("path", max_chars=1024),
            reason=fields.text("reason", max_chars=4096),
            writer=fields.optional_text("writer", max_chars=64) or "",
        )


@dataclass(frozen=True, slots=True)
class Record:
    """What a journal says once all of it is read."""

    epoch: int = 0
    alive: tuple[Commit, ...] = ()
    """Checkpoints that count, in the order of their commits."""
    rejected: str = ""
    """Which checkpoint was rejected last, and why, while none was committed since."""

    def after(self, entry: Entry) -> "Record":
        """Return the record with one more entry."""
        match entry.kind:
            case EntryKind.OPENED:
                return Record(entry.epoch, entry.commits, entry.reason)
            case EntryKind.COMMITTED:
                again = {commit.path for commit in entry.commits}
                kept = tuple(commit for commit in self.alive if commit.path not in again)
                return replace(self, alive=(*kept, *entry.commits), rejected="")
            case kind:
                why = f"{entry.path}: {entry.reason}" if kind is EntryKind.REJECTED else ""
                alive = tuple(commit for commit in self.alive if commit.path != entry.path)
                return replace(self, alive=alive, rejected=why or self.rejected)


class Journal:
    """The journal of one run, as one writer sees it; one thread at a time."""

    def __init__(self, store: Store, folder: str) -> None:
        """Nothing is read yet; `folder` is the run's, below the store's root."""
        self._store = store
        self._folder = f"{folder}/{FOLDER}"
        self._last = 0
        self._epoch = 0
        self.record = Record()

    def read(self) -> Record:
        """Read all that counts.

        Raises:
            OSError, ContractError: the storage cannot be read, or somebody else wrote there.
        """
        self._last, entries = self._read_back()
        self.record = Record()
        for entry in reversed(entries):
            self.record = self.record.after(entry)
        return self.record

    def open_epoch(self, epoch: int, now: float) -> Record:
        """Begin an attempt; whoever wrote before can commit no more.

        Raises:
            Superseded: this epoch, or a newer one, is open already.
        """
        self.read()
        while self.record.epoch < epoch:
            if self._take_next(self._repeat(epoch, now)):
                self._epoch = epoch
                return self.record
        raise Superseded(
            f"attempt {self.record.epoch} has begun on this storage; attempt {epoch} may not"
        )

    def append(self, entry: Entry) -> None:
        """Add an entry of the epoch that this writer opened.

        Raises:
            Superseded: a newer attempt has begun.
        """
        while True:
            if self.record.epoch != self._epoch:
                raise Superseded(
                    f"attempt {self.record.epoch} has begun on this storage; attempt"
                    f" {self._epoch} writes no more"
                )
            if self._take_next(entry):
                break
        if self._last % REPEAT_EVERY == 0:
            self._take_next(self._repeat(self._epoch, entry.time))

    def note(
        self,
        kind: EntryKind,
        now: float,
        *,
        commits: tuple[Commit, ...] = (),
        path: str = "",
        reason: str = "",
    ) -> None:
        """Append an entry of this writer's own epoch; raises as `append`."""
        self.append(
            Entry(kind=kind, epoch=self._epoch, time=now, commits=commits, path=path, reason=reason)
        )

    def is_newest(self) -> bool:
        """Whether nobody has written since this writer did; a newer attempt would have.

        Raises:
            OSError: the storage cannot be read.
        """
        is_own = self._epoch != 0 and self.record.epoch == self._epoch
        return is_own and self._store.read(self._path_of(self._last + 1)) is None

    def _repeat(self, epoch: int, now: float) -> Entry:
        """Return the entry that says what is alive; of too much, the newest that can be read."""
        alive = self.record.alive[-MAX_COMMITS:]
        while True:
            entry = Entry(
                kind=EntryKind.OPENED,
                epoch=epoch,
                time=now,
                commits=alive,
                reason=self.record.rejected[:4096],
            )
            if len(entry.to_json()) <= MAX_ENTRY_BYTES:
                return entry
            alive = alive[len(alive) // 2 :]

    def _take_next(self, entry: Entry) -> bool:
        """Write the entry with the next number, or read who took it.

        A write can arrive though its answer was lost; repeated below us, it then finds itself.
        """
        path = self._path_of(self._last + 1)
        entry = replace(entry, writer=secrets.token_hex(8))
        is_ours = self._store.create(path, entry.to_json())
        taken = entry if is_ours else self._read_one(path)
        is_ours = is_ours or taken.writer == entry.writer
        self._last += 1
        self.record = self.record.after(taken)
        return is_ours

    def _read_back(self) -> tuple[int, list[Entry]]:
        """Return the last number, and the entries from the newest back to the last epoch's."""
        numbers = [int(name.removesuffix(".json")) for name in self._names()]
        entries: list[Entry] = []
        for number in reversed(numbers):
            entries.append(self._read_one(self._path_of(number)))
            if entries[-1].kind is EntryKind.OPENED:
                break
        return numbers[-1] if numbers else 0, entries

    def _names(self) -> Iterator[str]:
        names = self._store.list_names(self._folder)
        return (name for name in names if _NAME.fullmatch(name))

    def _read_one(self, path: str) -> Entry:
        data = self._store.read(path)
        if data is None:
            raise FileNotFoundError(f"{path} was there a moment ago")
        return Entry.from_json(data)

    def _path_of(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"
