"""One container held as our pods hold theirs: any user, no rights, a read-only root, no network.

buildah's own `run` knows no read-only root, so runc is given the image's files directly.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster import imagebuild, images
from devcluster.steps import Shell

TMPFS = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}  # noqa: S108  the pods' own


@dataclass(frozen=True, slots=True)
class Held:
    """How a command is run.

    lent: path in the container -> folder of this machine, read-only; writable: the same, to write
    into.
    """

    uid: int
    gid: int = 0
    lent: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"


def run_held(
    image: str, command: Sequence[str], held: Held, folder: Path, *, limit_s: int
) -> subprocess.CompletedProcess[str]:
    """Run a command in an image built here; the output has stdout and stderr together."""
    name = f"test-{os.getpid()}-{folder.name}"
    with imagebuild.working_container(Shell(folder / "buildah.log"), image) as (_, root):
        subprocess.run(["runc", "spec", "--bundle", folder], check=True)
        file = folder / "config.json"
        config = fill_config(json.loads(file.read_text()), image_env(image), root, command, held)
        file.write_text(json.dumps(config))
        try:
            return subprocess.run(
                ["runc", "run", "--bundle", folder, name], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False,
            )  # fmt: skip
        finally:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)


def image_env(image: str) -> list[str]:
    """The variables that an image sets."""
    found = images.built(image)
    assert found is not None, f"{image} was not built here"
    config: dict[str, Any] = json.loads(images.unpacked(found).config)["config"]
    return list(config["Env"])


def fill_config(
    config: dict[str, Any], env: Sequence[str], root: Path, command: Sequence[str], held: Held
) -> dict[str, Any]:
    """Return runc's own example of a container with what is ours in it."""
    own = [f"{key}={value}" for key, value in held.env.items()]
    config["process"] |= {
        "terminal": False,
        "user": {"uid": held.uid, "gid": held.gid},
        "args": list(command),
        "env": [*env, *own],
        "cwd": held.cwd,
        "capabilities": {},
        "rlimits": [],  # those of this machine: without rights no other can be set
    }
    config["root"] = {"path": str(root), "readonly": True}
    # Ray looks up its host's name, and without network only this one has an address.
    config["hostname"] = "localhost"
    kept = [mount for mount in config["mounts"] if mount["destination"] != "/dev/shm"]  # noqa: S108
    shm = {**TMPFS, "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=2g"]}
    binds = [
        {"destination": inside, "type": "bind", "source": str(path), "options": ["rbind", mode]}
        for mode, places in (("ro", held.lent), ("rw", held.writable))
        for inside, path in places.items()
    ]
    config["mounts"] = [*kept, shm, *binds]
    return config
