"""Buckets as the fetcher opens them: whose settings count, and which are refused by their field.

Its environment holds the credentials of the job's storage, and the client of a bucket fills from
there what it was not given.  Its words may repeat values, so of those that end here little is told.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from deepspeed_trainer.checkpoints.stores import BucketStore, Store, open_store
from deepspeed_trainer.source.faults import CodeRefused, clean
from deepspeed_trainer.source.secret import Secret

_CLOUDS: Final = ("AWS_", "GOOGLE_", "AZURE_")


def open_storage(root: str) -> Store:
    """Open the job's storage.

    Raises:
        CodeRefused: its settings are none that a bucket takes.
    """
    if "://" not in root:
        return open_store(root)
    with _refusing("spec.storage.secretRef", _own_variables()):
        return open_store(root)


def open_bucket(uri: str, secret: Secret) -> BucketStore:
    """Open a bucket with the values of a Secret alone, or as the storage where none is named.

    Raises:
        CodeRefused: they are none that a bucket takes.
    """
    given = secret.all_texts()
    hidden = _own_variables() if secret.name else []
    with _refusing(f"{secret.field}.secretRef", given), _without(hidden):
        return BucketStore.from_uri(uri, given)


def _own_variables() -> list[str]:
    return [name for name in os.environ if name.startswith(_CLOUDS)]


@contextmanager
def _without(names: Iterable[str]) -> Iterator[None]:
    """Hide variables of this process; nothing else runs in it meanwhile."""
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _refusing(field: str, names: Iterable[str]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not _is_of_settings(error):
            raise
        held = ", ".join(sorted(names))
        raise CodeRefused(f"{field}: no bucket takes {held}: {_describe(error)}") from error


def _is_of_settings(error: BaseException) -> bool:
    from obstore.exceptions import BaseError  # noqa: PLC0415  volumes need no such package

    if isinstance(error, OSError):
        return error.errno == errno.EINVAL
    # The library dies of some keys that it knows, such as AWS_ALLOW_HTTP.
    return isinstance(error, BaseError) or type(error).__name__ == "PanicException"


def _describe(error: BaseException) -> str:
    """Return what the library says, as far as no value can be in it."""
    from obstore.exceptions import UnknownConfigurationKeyError  # noqa: PLC0415

    said = error.__cause__ if isinstance(error, OSError) else error
    words = clean(str(said or "").partition("\n")[0])
    if not isinstance(said, UnknownConfigurationKeyError):
        words = ": ".join(words.split(": ")[:2]).partition('"')[0].strip()
    return words
