"""What an attempt continues from: chosen from the run's journal, or taken over from another run.

Here only names and sizes are looked at; the ranks read every byte before they start.
"""

from collections.abc import Sequence
from contextlib import suppress

from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.checkpoints.choice import (
    PassedOver,
    describe_passed_over,
    rank_candidates,
    require_convertible,
)
from deepspeed_trainer.checkpoints.journal import Commit, CommitKind, EntryKind, Journal
from deepspeed_trainer.checkpoints.lineage import (
    NoSuchCheckpoint,
    describe_older_runs,
    find_older_runs,
    read_checkpoints,
)
from deepspeed_trainer.checkpoints.names import CHECKPOINTS, name_converted
from deepspeed_trainer.checkpoints.stores import Store
from deepspeed_trainer.contract import MANIFEST_FILE, ContractError, RunContract, run_path
from deepspeed_trainer.manifest import MAX_MANIFEST_BYTES, Manifest


class Choosing:
    """The choices of one attempt; each is made anew when the one before turned out damaged."""

    def __init__(self, store: Store, journal: Journal, contract: RunContract) -> None:
        self._store = store
        self._journal = journal
        self._contract = contract
        self._run = run_path(contract.job, contract.run)
        self._passed: list[PassedOver] = []
        self._number = 0
        self.resumed_from: str | None = None
        """The commit's path of what is continued from."""
        self._older: str | None = None
        self._offered: list[Commit] = []
        self._no_source: NoSuchCheckpoint | None = None

    def look_around(self) -> None:
        """Read what other runs have, while no rank waits for an answer yet.

        Raises:
            OSError: what the job names cannot be read.
        """
        contract = self._contract
        if contract.resume == "Never" or self._journal.record.alive:
            return
        if contract.resume_from is not None:
            try:
                self._offered = read_checkpoints(self._store, contract.resume_from)
            except NoSuchCheckpoint as error:
                self._no_source = error
            return
        with suppress(OSError):  # a courtesy
            older = find_older_runs(self._store, contract.job, contract.run)
            self._older = describe_older_runs(older)

    def choose(self, now: float) -> tuple[Resume, str | None]:
        """Return what to continue from, and a sentence that the user should know of it.

        Where that has to be converted first, the answer says what and where to, and no more.

        Raises:
            CannotResize: it has to be, and cannot or shall not.
            NoSuchCheckpoint: what the job names is not there, or cannot be used.
            Superseded, OSError: as the journal.
        """
        self._number += 1
        if self._contract.resume == "Never":
            return Resume(self._number), None
        save, report = self._find(), self._find(CommitKind.REPORT)
        if save is None and report is None and self._contract.resume_from is not None:
            self._adopt(self._contract.resume_from, now)
            save, report = self._find(), self._find(CommitKind.REPORT)
        for commit in (save, report):
            if commit is not None and self._must_convert(commit):
                return self._order_conversion(commit), None
        found = save or report
        if found is None:
            self._refuse_to_forget()
        self.resumed_from = found.path if found else None
        resume = Resume(
            number=self._number,
            save=self._full(save),
            report=self._full(report),
            step=found.step if found else 0,
            attempt=found.epoch if found else 0,
        )
        return resume, self._describe(found)

    def pass_over(self, path: str, message: str, now: float) -> None:
        """Never take a checkpoint again; `path` is below the storage's root.

        Raises:
            Superseded, OSError: as the journal.
        """
        below = self.below_run(path)
        commits = [commit for commit in self._journal.record.alive if commit.path == below]
        self._passed += [PassedOver(commit, message) for commit in commits]
        self._journal.note(EntryKind.REJECTED, now, path=below, reason=message[:2048])

    def below_run(self, path: str) -> str:
        """Return a commit's path from one below the storage's root."""
        own = f"{self._run}/"
        return path.removeprefix(own) if path.startswith(own) else f"/{path}"

    def _describe(self, found: Commit | None) -> str | None:
        passed_over = describe_passed_over(self._passed, found.step if found else None)
        return passed_over if found is not None else self._older

    def _refuse_to_forget(self) -> None:
        """A run that had checkpoints does not begin at step 0 by itself."""
        passed = [f"{one.commit.path}: {one.reason}" for one in self._passed]
        reasons = passed or [self._journal.record.rejected]
        if any(reasons):
            raise NoSuchCheckpoint(
                f"this run has saved checkpoints, and none can be continued from: {reasons[-1]};"
                " begin anew with checkpoint.resume.mode: Never"
            )

    def _find(self, kind: CommitKind = CommitKind.SAVE) -> Commit | None:
        return self._newest(self._journal.record.alive, kind)

    def _newest(self, commits: Sequence[Commit], kind: CommitKind) -> Commit | None:
        """Return the newest commit of a kind that is whole, as far as names and sizes tell."""
        for commit in rank_candidates(commits, kind, self._contract.world_size):
            reason = self._find_gap(commit)
            if reason is None:
                return commit
            self._passed.append(PassedOver(commit, reason))
        return None

    def _adopt(self, source: str, now: float) -> None:
        """Let another run's newest checkpoints count in this one; what is lost is never silent."""
        if self._no_source is not None:
            raise self._no_source
        known = {one.commit.path for one in self._passed}
        offered = [one for one in self._offered if one.path not in known]
        newest = [self._newest(offered, kind) for kind in CommitKind]
        adopted = tuple(commit for commit in newest if commit is not None)
        if not adopted:
            reasons = "; ".join(f"{one.commit.path[1:]}: {one.reason}" for one in self._passed)
            raise NoSuchCheckpoint(f"nothing of {source} can be continued from: {reasons}")
        self._journal.note(EntryKind.COMMITTED, now, commits=adopted)

    def _must_convert(self, commit: Commit) -> bool:
        """Return whether a commit has to be converted; one that this size cannot have is refused.

        A converted copy too: it can be loaded by any number of ranks, its batch not shared by any.
        """
        contract = self._contract
        if commit.world_size == contract.world_size:
            return False
        manifest = read_manifest(self._store, self._full(commit))
        if manifest is None:
            return False
        on_change = contract.on_world_size_change
        require_convertible(commit.path, manifest, contract.world_size, on_change)
        return not commit.universal

    def _order_conversion(self, commit: Commit) -> Resume:
        name = name_converted(commit.step, self._contract.attempt, commit.kind.lower())
        into = f"{self._run}/{CHECKPOINTS}/{name}"
        return Resume(self._number, step=commit.step, convert=self._full(commit), into=into)

    def _find_gap(self, commit: Commit) -> str | None:
        path = self._full(commit)
        manifest = read_manifest(self._store, path)
        if manifest is None:
            return "its manifest is missing or cannot be read"
        sizes = self._store.list_sizes(path)
        for file in manifest.files:
            found = sizes.get(file.path)
            if found is None:
                return f"{file.path} is missing"
            if found != file.size_bytes:
                return f"{file.path} has {found} bytes, saved were {file.size_bytes}"
        return None

    def _full(self, commit: Commit | None) -> str:
        """Return a commit's path below the storage's root."""
        if commit is None:
            return ""
        return commit.path[1:] if commit.path.startswith("/") else f"{self._run}/{commit.path}"


def read_manifest(store: Store, path: str) -> Manifest | None:
    """Return a checkpoint's manifest, None when it is gone or cannot be read."""
    data = store.read(f"{path}/{MANIFEST_FILE}")
    if data is None or len(data) > MAX_MANIFEST_BYTES:
        return None
    try:
        return Manifest.from_json(data)
    except ContractError:
        return None
