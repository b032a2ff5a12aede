"""Buckets as the fetcher opens them: whose settings count.

Its environment holds the credentials of the job's storage, and the client of a bucket fills from
there what it was not given.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from deepspeed_trainer.checkpoints.stores import BucketStore
from deepspeed_trainer.source.secret import Secret

_CLOUDS: Final = ("AWS_", "GOOGLE_", "AZURE_")


def open_bucket(uri: str, secret: Secret) -> BucketStore:
    """Open a bucket with the values of a Secret alone, or as the storage where none is named."""
    given = secret.all_texts()
    hidden = _own_variables() if secret.name else []
    with _without(hidden):
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
