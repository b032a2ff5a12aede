"""Hand images to nodes quickly: unpack each once, into a template, and give nodes a share of it.

The template is the root folder of a containerd that runs only while an image is added. A new
node's own root is a copy of the template's two databases, hard links to its blobs, and symbolic
links to its unpacked layers, which containers never write to. That takes milliseconds whatever
the size of the images. The template's containerd never collects garbage, for nodes use its layers.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devcluster import images
from devcluster.errors import Missing, StepFailed
from devcluster.images import Image
from devcluster.node import PAUSE_IMAGE, is_listening
from devcluster.ociarchive import write_program_image
from devcluster.paths import (
    SOURCE,
    cache_dir,
    digest,
    is_root,
    locked,
    remove,
    run_dir,
    written_whole,
)
from devcluster.steps import Shell

SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs"
CONTENT = "io.containerd.content.v1.content"
METADATA = "io.containerd.metadata.v1.bolt"
RECORD = "devcluster-images.json"
START_S = 20.0
PAUSE_S = 0.02


def template() -> Path:
    """The root folder of the template."""
    return cache_dir() / "images" / "template"


def _lock() -> Path:
    return cache_dir() / "images" / "template.lock"


def held(root: Path) -> dict[str, str]:
    """The images in a containerd's root folder: reference -> fingerprint."""
    try:
        found: dict[str, str] = json.loads((root / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return found


def add_to_template(shell: Shell, wanted: Sequence[Image]) -> None:
    """Unpack those images into the template that it does not hold yet. Raises: Missing."""
    if not is_root():
        raise Missing("Unpacking images for nodes needs root.")
    with locked(_lock()):
        missing = [i for i in wanted if held(template()).get(i.reference) != i.fingerprint]
        if missing:
            with _template_running(shell) as socket:
                for image in missing:
                    load(shell, socket, template(), image)


def seed(root: Path) -> None:
    """Make a node's containerd root that holds all images of the template.

    The node's containerd must not be running.
    """
    with locked(_lock()):
        source = template()
        for folder, database in ((SNAPSHOTS, "metadata.db"), (METADATA, "meta.db")):
            (root / folder).mkdir(parents=True)
            shutil.copyfile(source / folder / database, root / folder / database)
        snapshots = root / SNAPSHOTS / "snapshots"
        snapshots.mkdir(mode=0o700)
        for layer in (source / SNAPSHOTS / "snapshots").iterdir():
            (snapshots / layer.name).symlink_to(layer)
        blobs = root / CONTENT / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for blob in (source / CONTENT / "blobs" / "sha256").iterdir():
            _share(blob, blobs / blob.name)
        shutil.copyfile(source / RECORD, root / RECORD)


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def load(shell: Shell, socket: Path, root: Path, image: Image) -> None:
    """Give an image to a running containerd and record it in its root folder."""
    ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
    present = set(shell.output([*ctr, "content", "ls", "-q"]).split())
    command = [*ctr, "images", "import", "--digests=false", "-"]
    shell.log(f"$ {' '.join(command)}  # {image.reference}")
    with shell.log_path.open("ab") as log:
        receiver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        assert receiver.stdin is not None  # noqa: S101 (for the type checker)
        try:
            with receiver.stdin as pipe:
                image.feed(pipe, present)
        except BrokenPipeError:
            shell.log("containerd stopped reading")
        code = receiver.wait()
    if code != 0:
        raise StepFailed("ctr", f"importing {image.reference} ended with {code}", shell.log_path)
    with written_whole(root / RECORD) as beside:
        beside.write_text(json.dumps({**held(root), image.reference: image.fingerprint}))


def pause_archive() -> Path:
    """Where the archive of the pause image lies once built."""
    return cache_dir() / f"pause-{digest(SOURCE / 'pause.c', PAUSE_IMAGE)}" / "pause.tar"


def build_pause(shell: Shell) -> None:
    """Compile the pause program and put its image into the template."""
    archive = pause_archive()
    with written_whole(archive.parent) as beside:
        beside.mkdir()
        shell.run(["gcc", "-Os", "-static", "-s", "-o", beside / "pause", SOURCE / "pause.c"])
        write_program_image(beside / archive.name, beside / "pause", PAUSE_IMAGE)
    add_to_template(shell, [images.from_archive(archive)])


def has_pause() -> bool:
    """Whether the template holds the pause image of this version."""
    archive = pause_archive()
    if not archive.exists():
        return False
    image = images.from_archive(archive)
    return held(template()).get(image.reference) == image.fingerprint


@contextmanager
def _template_running(shell: Shell) -> Iterator[Path]:
    """Run the template's containerd; yields its socket."""
    run_dir().mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(dir=run_dir(), prefix="template."))
    socket, config = state / "containerd.sock", state / "containerd.toml"
    config.write_text(_template_config(state, socket))
    template().mkdir(parents=True, exist_ok=True)
    with shell.log_path.open("ab") as log:
        server = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
    try:
        end_at = time.monotonic() + START_S
        while not is_listening(socket):
            shell.check()
            if server.poll() is not None or time.monotonic() > end_at:
                raise StepFailed("containerd", "does not start", shell.log_path)
            time.sleep(PAUSE_S)
        yield socket
    finally:
        server.terminate()
        server.wait()
        remove(state)


def _template_config(state: Path, socket: Path) -> str:
    return f"""\
version = 2
root = "{template()}"
state = "{state}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 0
  mutation_threshold = 1000000
  schedule_delay = "24h"
  startup_delay = "24h"
"""
