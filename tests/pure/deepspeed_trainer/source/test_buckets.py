"""Settings of buckets: whose they are."""

import os
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from deepspeed_trainer.source.buckets import open_bucket
from deepspeed_trainer.source.secret import Secret

STORAGES = {
    "AWS_SESSION_TOKEN": "t",
    "AWS_ENDPOINT_URL": "http://storage",
    "GOOGLE_SERVICE_ACCOUNT": "/a",
    "AZURE_STORAGE_SAS_KEY": "s",
}


def a_secret(folder: Path, keys: dict[str, str], name: str = "s3") -> Secret:
    for key, text in keys.items():
        (folder / key).write_text(text)
    return Secret(folder, name, "spec.code.archive")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environment that the bucket's library finds, each time it makes a store."""
    found: list[dict[str, str]] = []

    def from_url(*_: Any, **__: Any) -> MemoryStore:
        found.append(dict(os.environ))
        return MemoryStore()

    monkeypatch.setattr("obstore.store.from_url", from_url)
    for name, text in STORAGES.items():
        monkeypatch.setenv(name, text)
    return found


def test_where_a_secret_is_named_its_values_alone_count(
    tmp_path: Path, seen: list[dict[str, str]]
) -> None:
    open_bucket("s3://b/f", a_secret(tmp_path, {"AWS_REGION": "r"}))
    (found,) = seen
    assert not STORAGES.keys() & found.keys()
    assert found["PATH"] == os.environ["PATH"]
    assert STORAGES.items() <= os.environ.items(), "the storage is used again afterwards"


def test_without_a_secret_the_storages_credentials_count(
    tmp_path: Path, seen: list[dict[str, str]]
) -> None:
    open_bucket("s3://b/f", a_secret(tmp_path, {}, name=""))
    assert STORAGES.items() <= seen[0].items()
