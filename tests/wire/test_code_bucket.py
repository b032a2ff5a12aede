"""An archive in a bucket of its own, beside the job's storage in another one.

Real here: the bucket's client, and an HTTP server on loopback in the place of each bucket.
"""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source.bring import bring


@dataclass
class Bucket:
    """Answers every question with one object."""

    data: bytes
    url: str = ""
    met: list[dict[str, str]] = field(default_factory=list)
    """Headers of the requests, their names in small letters."""


@contextmanager
def a_bucket(data: bytes) -> Iterator[Bucket]:
    bucket = Bucket(data)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bucket.met.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.send_header("Content-Length", str(len(bucket.data)))
            self.send_header("Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT")
            self.send_header("ETag", '"e"')
            self.end_headers()
            self.wfile.write(bucket.data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        bucket.url = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield bucket
        server.shutdown()
        serving.join()


def an_archive() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("train.py"), io.BytesIO())
    return data.getvalue()


def test_a_bucket_with_a_secret_of_its_own_gets_nothing_of_the_storages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, code, storage = (tmp_path / name for name in ("secret", "code", "storage"))
    for folder in (secret, code, storage):
        folder.mkdir()
    with a_bucket(an_archive()) as theirs, a_bucket(b"") as ours:
        given = {"ACCESS_KEY_ID": "theirs", "SECRET_ACCESS_KEY": "s", "ENDPOINT_URL": theirs.url}
        for name, text in given.items():
            (secret / f"AWS_{name}").write_text(text)
        own = {"ACCESS_KEY_ID": "ours", "SECRET_ACCESS_KEY": "o", "ENDPOINT_URL": ours.url}
        for name, text in {**own, "SESSION_TOKEN": "0ur-t0ken", "REGION": "our-region"}.items():
            monkeypatch.setenv(f"AWS_{name}", text)
        order = CodeOrder(
            kind="archive",
            storage=str(storage),
            folder="run-1/code",
            makes_copy=True,
            uri="s3://bundles/code.tar",
            sha256=hashlib.sha256(theirs.data).hexdigest(),
            secret="s3",
        )
        bring(order, code, secret_folder=secret)
    assert (code / "train.py").is_file()
    assert ours.met == []
    (asked,) = theirs.met
    assert "x-amz-security-token" not in asked
    assert "Credential=theirs/" in asked["authorization"]
    assert "our-region" not in asked["authorization"]
