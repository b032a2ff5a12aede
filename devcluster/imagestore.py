"""Give images to a node's containerd, without copying what is unpacked already.

A layer of one of our images becomes a snapshot of containerd whose folder is a link to buildah's:
containers never write to lower layers. So an image of any size takes a moment and no space. What
containerd keeps beside, manifest and configuration, is imported as an archive without layers.
"""

import json
import os
import re
import tempfile
import time
from pathlib import Path

from devcluster import images
from devcluster.build import made_once
from devcluster.errors import StepFailed
from devcluster.images import Image, Unpacked
from devcluster.node import PAUSE_IMAGE
from devcluster.ociarchive import add_blob, write_program_image, write_tar
from devcluster.paths import SOURCE, cache_dir, digest, written_whole
from devcluster.steps import Shell

RECORD = "devcluster-images.json"


def held(root: Path) -> dict[str, str]:
    """The images in a containerd's root folder: reference -> fingerprint."""
    try:
        found: dict[str, str] = json.loads((root / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return found


def load(shell: Shell, socket: Path, root: Path, image: Image) -> None:
    """Give an image to a running containerd and record it in its root folder."""
    if held(root).get(image.reference) == image.fingerprint:
        return
    ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
    if image.archive is not None:
        shell.run([*ctr, "images", "import", "--digests=false", image.archive])
    else:
        parts = images.unpacked(image)
        adopt_layers(shell, ctr, parts)
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            archive.write(without_layers(image.reference, parts))
            archive.flush()
            shell.run([*ctr, "images", "import", "--digests=false", "--no-unpack", archive.name])
    with written_whole(root / RECORD) as beside:
        beside.write_text(json.dumps({**held(root), image.reference: image.fingerprint}))


def adopt_layers(shell: Shell, ctr: list[str], parts: Unpacked) -> None:
    """Make a snapshot of each layer that containerd has none of yet."""
    present = {line.split()[0] for line in shell.output([*ctr, "snapshots", "ls"]).splitlines()}
    names = images.chain_ids([layer.diff_id for layer in parts.layers])
    parent: list[str] = []
    for name, layer in zip(names, parts.layers, strict=True):
        if name not in present:
            draft = f"devcluster-{os.getpid()}-{time.monotonic_ns()}"
            shell.run([*ctr, "snapshots", "prepare", draft, *parent])
            told = shell.output([*ctr, "snapshots", "mounts", "/x", draft])
            found = re.search(r"(?:upperdir=|\s)(/\S+?/snapshots/\d+/fs)", told)
            if found is None:
                raise StepFailed("ctr", f"no folder of a snapshot in {told!r}", shell.log_path)
            folder = Path(found.group(1))
            folder.rmdir()
            folder.symlink_to(layer.folder)
            shell.run([*ctr, "snapshots", "commit", name, draft])
        parent = [name]


def without_layers(reference: str, parts: Unpacked) -> bytes:
    """An archive of an image's manifest and configuration."""
    manifest = json.loads(parts.manifest)
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    entry = add_blob(files, manifest["mediaType"], parts.manifest)
    add_blob(files, manifest["config"]["mediaType"], parts.config)
    entry["annotations"] = {"io.containerd.image.name": reference}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return write_tar(files)


def pause_archive() -> Path:
    """Where the archive of the pause image lies once built."""
    return cache_dir() / f"pause-{digest(SOURCE / 'pause.c', PAUSE_IMAGE)}" / "pause.tar"


def build_pause(shell: Shell) -> None:
    """Compile the pause program and pack it into an image."""
    archive = pause_archive()
    with made_once(archive.parent) as folder:
        if folder is None:
            return
        shell.run(["gcc", "-Os", "-static", "-s", "-o", folder / "pause", SOURCE / "pause.c"])
        write_program_image(folder / archive.name, folder / "pause", PAUSE_IMAGE)
