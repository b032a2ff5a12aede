"""A run's code, frozen: read from its source once, kept on the storage, given to every pod.

The first pod to make a copy marks it with a file that can be created once alone; that file says
which code the run has, for this attempt and all later ones, whatever becomes of the source.  Every
pod, the first one too, then unpacks the copy and nothing else.
"""

import errno
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepspeed_trainer.checkpoints.stores import Store, hash_file
from deepspeed_trainer.contract import (
    CODE_SECRET_MOUNT,
    CODE_SOURCE_MOUNT,
    CodeOrder,
    ContractError,
    FrozenCode,
)
from deepspeed_trainer.fields import read_object
from deepspeed_trainer.source import archive
from deepspeed_trainer.source.buckets import open_storage
from deepspeed_trainer.source.faults import CodeRefused, CodeUnavailable, clean
from deepspeed_trainer.source.git import Repository
from deepspeed_trainer.source.pack import Gate, read_folder, unpack, write_copy
from deepspeed_trainer.source.secret import Secret

MARK_FILE: Final = "frozen.json"
PAUSES_S: Final = (1, 2, 4, 8, 15, 30)
"""Between tries when the network or a server fails; then the attempt has failed."""
_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 5.0


def bring(
    order: CodeOrder,
    target: Path,
    *,
    secret_folder: Path = Path(CODE_SECRET_MOUNT),
    files: Path = Path(CODE_SOURCE_MOUNT),
    pause: Callable[[float], None] = time.sleep,
) -> FrozenCode:
    """Fill a folder with the run's code; returns which code that is.

    Raises:
        CodeError: naming the field.
    """
    secret = Secret(secret_folder, order.secret, f"spec.code.{order.kind}")
    with tempfile.TemporaryDirectory(prefix="dsjob-code-") as scratch:
        bringer = _Bringer(order, secret, files, Path(scratch), pause)
        for wait_s in PAUSES_S:
            try:
                return bringer.bring(target)
            except CodeUnavailable as error:
                print(f"{error}; tries again in {wait_s} s", flush=True)  # noqa: T201
                pause(wait_s)
        return bringer.bring(target)


@dataclass(frozen=True, slots=True)
class _Bringer:
    """One pod with its order."""

    order: CodeOrder
    secret: Secret
    files: Path
    scratch: Path
    pause: Callable[[float], None]

    def bring(self, target: Path) -> FrozenCode:
        """Try once."""
        try:
            store = open_storage(self.order.storage)
            frozen = self._find_copy(store)
            self._unpack(store, frozen, target)
        except FileNotFoundError as error:
            raise CodeRefused(f"spec.storage: a file is gone: {error}") from error
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise CodeRefused("spec.code: it is too large; keep data on the storage") from error
            why = clean(f"{type(error).__name__}: {error}", self.secret.hidden())
            raise CodeUnavailable(f"spec.storage: {why}") from error
        return frozen

    def _find_copy(self, store: Store) -> FrozenCode:
        frozen = self._read_mark(store)
        if frozen is None:
            frozen = self._freeze(store) if self.order.makes_copy else self._await_mark(store)
        if self.order.expected not in ("", frozen.sha256):
            raise CodeRefused(
                f"spec.code: the run began with copy {self.order.expected}, but"
                f" {self.order.folder} on the storage now says {frozen.sha256}"
            )
        return frozen

    def _read_mark(self, store: Store) -> FrozenCode | None:
        data = store.read(f"{self.order.folder}/{MARK_FILE}")
        if data is None:
            if self.order.expected:
                raise CodeRefused(
                    f"spec.code: the run's copy of its code in {self.order.folder} is gone from"
                    " the storage; without it this run cannot go on with the same code"
                )
            return None
        try:
            return FrozenCode.from_fields(read_object(data, max_bytes=4096, what=MARK_FILE))
        except ContractError as error:
            raise CodeRefused(f"spec.code: {self.order.folder} on the storage: {error}") from error

    def _await_mark(self, store: Store) -> FrozenCode:
        """Wait for the pod that makes the copy; if it fails, the operator ends this pod too."""
        wait_s = _FIRST_WAIT_S
        while (frozen := self._read_mark(store)) is None:
            self.pause(wait_s)
            wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)
        return frozen

    def _freeze(self, store: Store) -> FrozenCode:
        """Make the copy, bring it to the storage and mark it; the mark that was first counts."""
        self.secret.await_keys()
        folder = self.order.folder
        with tempfile.TemporaryDirectory(dir=self.scratch) as inner:
            copy = Path(inner) / "copy.tar"
            commit = self._read_source(Path(inner), copy)
            digest, size_bytes = hash_file(copy), copy.stat().st_size
            store.keep(copy, f"{folder}/{_copy_name(digest)}")
        frozen = FrozenCode(
            kind=self.order.kind, sha256=digest, size_bytes=size_bytes, commit=commit
        )
        mark = json.dumps(frozen.to_wire(), sort_keys=True).encode()
        if store.create(f"{folder}/{MARK_FILE}", mark):
            return frozen
        return self._read_mark(store) or frozen

    def _read_source(self, scratch: Path, copy: Path) -> str | None:
        """Write the copy of the source as it is now; returns git's commit."""
        if self.order.kind == "git":
            return Repository(self.order, self.secret, scratch).fetch_copy(copy)
        if self.order.kind == "archive":
            archive.fetch_copy(self.order, self.secret, scratch, copy)
        else:
            write_copy(read_folder(self.files), copy, Gate("spec.code.configMap"))
        return None

    def _unpack(self, store: Store, frozen: FrozenCode, target: Path) -> None:
        copy = self.scratch / "copy.tar"
        path = f"{self.order.folder}/{_copy_name(frozen.sha256)}"
        if store.fetch(path, copy) != frozen.sha256:
            raise CodeRefused(f"spec.code: the run's copy {path} was changed on the storage")
        unpack(copy, target)


def _copy_name(digest: str) -> str:
    return f"{digest}.tar"
