"""Settings of buckets: whose they are, and what becomes of those that no bucket takes."""

import os
from errno import EINVAL, EIO
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source import buckets
from deepspeed_trainer.source.bring import bring
from deepspeed_trainer.source.buckets import open_bucket
from deepspeed_trainer.source.faults import CodeRefused
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


WRONG = {
    "a key that no bucket has": ("s3://b/f", "AWS_NO_SUCH_KEY", "value-1"),
    "a damaged key file": ("gs://b/f", "GOOGLE_SERVICE_ACCOUNT_KEY", '"value-1'),
    "a key file that is no key": ("gs://b/f", "GOOGLE_SERVICE_ACCOUNT_KEY", '"value-1"'),
    "half a pair": ("s3://b/f", "AWS_ACCESS_KEY_ID", "value-1"),
    "a word that is none": ("s3://b/f", "AWS_CONDITIONAL_PUT", "value-1"),
    "what the library dies of": ("s3://b/f", "AWS_ALLOW_HTTP", "value-1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_archives_settings_that_no_bucket_takes_are_refused_by_their_field(
    tmp_path: Path, case: str
) -> None:
    uri, key, value = WRONG[case]
    secret = a_secret(tmp_path, {key: value})
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.secretRef: ") as refused:
        open_bucket(uri, secret)
    assert key.lower() in str(refused.value).lower()
    assert "value-1" not in str(refused.value)


def test_the_storages_settings_are_refused_by_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '{"private_key": "value-1"')
    order = CodeOrder(kind="configMap", storage="gs://b/f", folder="code", makes_copy=True)
    waited: list[float] = []
    with pytest.raises(CodeRefused, match=r"^spec\.storage\.secretRef: ") as refused:
        bring(order, tmp_path, pause=waited.append)
    assert "value-1" not in str(refused.value)
    assert waited == []


@pytest.mark.parametrize("number", [EINVAL, EIO])
def test_what_the_store_itself_calls_invalid_is_refused_and_other_errors_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def from_uri(*_: Any) -> None:
        raise OSError(number, "value-1")

    monkeypatch.setattr(buckets.BucketStore, "from_uri", from_uri)
    expected = CodeRefused if number == EINVAL else OSError
    with pytest.raises(expected) as raised:
        open_bucket("s3://b/f", a_secret(tmp_path, {"AWS_REGION": "r"}))
    assert ("value-1" in str(raised.value)) is (number == EIO)


def test_a_secret_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "AWS_REGION").write_bytes(b"\xff\xfe")
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.secretRef: key 'AWS_REGION'"):
        a_secret(tmp_path, {}).all_texts()
