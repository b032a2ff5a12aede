"""An S3 server for a cluster: versitygw over a folder, with credentials of the cluster's own.

It listens where the API server does: on the cluster's bridge, so that pods reach it, or on loopback
alone. Its address and credentials are in one file in the form that S3 clients take from their
environment and `kubectl create secret --from-env-file` takes too. Plain HTTP: nothing leaves the
machine. Left out: accounts beside the one, and any limit on space.
"""

import secrets
from pathlib import Path

from devcluster import build, processes
from devcluster.build import CORES, GoProgram
from devcluster.controlplane import READY_S, Command, ControlPlane, http_probe
from devcluster.steps import Shell, Step

COMPONENT = "s3"
VERSITYGW = GoProgram("versitygw", "github.com/versity/versitygw/cmd/versitygw")
REGION = "us-east-1"
HEALTH = "/health"


def build_step() -> Step:
    """The step that builds the server."""
    return Step("versitygw", build_server, ("go toolchain",), VERSITYGW.folder.exists, lane=CORES)


def build_server(shell: Shell) -> None:
    """Build the server."""
    build.build_program(shell, VERSITYGW)


def environment_file(folder: Path) -> Path:
    """The file with address and credentials, of the cluster that has this folder."""
    return folder / "s3.env"


def environment(folder: Path) -> dict[str, str]:
    """What a client of the server needs in its environment."""
    lines = environment_file(folder).read_text().splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def start(shell: Shell, plane: ControlPlane) -> None:
    """Draw credentials and start the server on an empty folder."""
    folder, file = plane.home.folder / "s3", environment_file(plane.home.folder)
    folder.mkdir()
    address = f"{plane.address}:{plane.place.port('s3')}"
    drawn = {
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_REGION": REGION,
    }
    file.touch(mode=0o600)
    file.write_text("".join(f"{key}={value}\n" for key, value in drawn.items()))
    known = {
        "ROOT_ACCESS_KEY_ID": drawn["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_ACCESS_KEY": drawn["AWS_SECRET_ACCESS_KEY"],
    }
    command: Command = [VERSITYGW.folder / "versitygw", "--port", address, "--region", REGION]
    command += ["--health", HEALTH, "posix", folder]
    processes.start(plane.home, COMPONENT, command, environment=known)
    probe = http_probe(f"http://{address}{HEALTH}")
    processes.await_ready(plane.home, [COMPONENT], probe, shell=shell, timeout_s=READY_S)
