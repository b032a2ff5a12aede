"""Code in a bucket, on a real S3 server: the archive that is read, and the run's own copy.

No Ray here: the fetcher runs before it.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source.bring import MARK_FILE, bring
from deepspeed_trainer.source.faults import CodeRefused
from tests.trainer.s3 import S3Server, find_server

pytestmark = pytest.mark.skipif(find_server() is None, reason="no versitygw, see tests/trainer/s3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def archive(server: S3Server, name: str, text: str) -> str:
    """Put an archive into the bucket; returns its checksum."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zipped:
        zipped.writestr("src/train.py", text)
    path = server.place_of(f"bundles/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())
    return hashlib.sha256(data.getvalue()).hexdigest()


def order(server: S3Server, name: str, digest: str) -> CodeOrder:
    return CodeOrder(
        kind="archive",
        storage=server.uri,
        folder=f"ns/{name}/uid/run-1/code",
        makes_copy=True,
        uri=f"{server.uri}/bundles/{name}",
        sha256=digest,
        path="src",
        secret="s3",
    )


def secret_of(server: S3Server, folder: Path, **changed: str) -> Path:
    """Mount a Secret with the server's credentials."""
    folder.mkdir(exist_ok=True)
    for key, text in {**server.env, **changed}.items():
        (folder / key).write_text(text)
    return folder


def test_an_archive_in_a_bucket_is_read_with_its_own_secret_and_copied_to_the_storage(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    given = order(server, "a.zip", archive(server, "a.zip", "print(1)"))
    secret = secret_of(server, tmp_path / "secret")
    code = tmp_path / "code"
    code.mkdir()
    frozen = bring(given, code, secret_folder=secret)
    assert (code / "train.py").read_text() == "print(1)"
    assert server.place_of(f"{given.folder}/{frozen.sha256}.tar").is_file()
    # The source changes: a later attempt, in another pod, has what the first one had.
    archive(server, "a.zip", "print(2)")
    later = replace(given, makes_copy=False, expected=frozen.sha256)
    other = tmp_path / "other"
    other.mkdir()
    assert bring(later, other, secret_folder=tmp_path / "none") == frozen
    assert (other / "train.py").read_text() == "print(1)"
    mark = json.loads(server.place_of(f"{given.folder}/{MARK_FILE}").read_text())
    assert mark["sha256"] == frozen.sha256


def test_the_secret_counts_more_than_the_storages_credentials(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    given = order(server, "b.zip", archive(server, "b.zip", "print(1)"))
    wrong = secret_of(server, tmp_path / "wrong", AWS_SECRET_ACCESS_KEY="wrong")
    (tmp_path / "code").mkdir()
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.secretRef: ") as refused:
        bring(given, tmp_path / "code", secret_folder=wrong)
    assert server.env["AWS_SECRET_ACCESS_KEY"] not in str(refused.value)


def test_an_archive_that_is_in_no_bucket_is_refused(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    given = replace(order(server, "none.zip", "0" * 64), secret="")
    (tmp_path / "code").mkdir()
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.uri: there is no s3://"):
        bring(given, tmp_path / "code")
