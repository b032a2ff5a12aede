"""A real S3 server on loopback: versitygw over a folder, as the dev cluster builds it."""

import os
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from tests.trainer.raycluster import free_ports, wait_until

PROGRAM_ENV = "VERSITYGW"
"""Names the program where it is not on PATH."""


def find_server() -> str | None:
    """Return the server's program, or None where there is none."""
    return os.environ.get(PROGRAM_ENV) or shutil.which("versitygw")


class S3Server:
    """Context manager; `env` is what a client needs, `uri` an empty folder of a bucket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "s3"
        (self._folder / "runs").mkdir(parents=True)
        self.log = folder / "requests.log"
        """A line for every request that was answered."""
        self._port = free_ports(1)[0]
        self.uri = "s3://runs/team"
        self.env = {
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        program = find_server()
        assert program is not None
        command = [program, "--port", f"127.0.0.1:{self._port}", "--region", "us-east-1"]
        own = {
            "ROOT_ACCESS_KEY": self.env["AWS_ACCESS_KEY_ID"],
            "ROOT_SECRET_KEY": self.env["AWS_SECRET_ACCESS_KEY"],
        }
        self._process = subprocess.Popen(
            [*command, "--access-log", self.log, "--health", "/health", "posix", self._folder],
            env={**os.environ, **own},
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, "the S3 server does not answer", 30.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def place_of(self, path: str) -> Path:
        """Return where an object of the bucket lies on the server's disk."""
        return self._folder / "runs" / "team" / path

    def _answers(self) -> bool:
        try:
            url = f"{self.env['AWS_ENDPOINT_URL']}/health"
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  our own server
                return True
        except (urllib.error.URLError, OSError):
            return False
