"""What an image is to us: a name, a fingerprint, and where its layers are.

Images that we build stay where buildah has them: unpacked layers, one folder each, which nodes use
in place. Archives made by others are known by the path of their file.
"""

import json
import tarfile
from base64 import b64encode
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devcluster.errors import WrongUse
from devcluster.paths import cache_dir, digest, written_whole


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be given to nodes.

    fingerprint: of one of ours the id, without "sha256:"; of an archive any text that changes with
    its content. archive: the path of a tar file; None for one of ours.
    """

    reference: str
    fingerprint: str
    archive: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer: the folder that holds it, and the digest of the tar that it was."""

    diff_id: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What one of our images consists of; the lowest layer first."""

    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]


def size_bytes(image: Image) -> int:
    """What one of our images takes on a node that holds nothing yet: its layers, unpacked."""
    layers = json.loads(unpacked(image).manifest)["layers"]
    return sum(int(layer["size"]) for layer in layers)


def storage() -> Path:
    """The folder of buildah: layers of all images and of their stages."""
    return cache_dir() / "images" / "buildah"


def unpacked(image: Image) -> Unpacked:
    """Where the parts of one of our images lie."""
    folder = storage() / "overlay-images" / image.fingerprint
    config = folder / f"={b64encode(f'sha256:{image.fingerprint}'.encode()).decode()}"
    records = json.loads((storage() / "overlay-images" / "images.json").read_text())
    top = next(record["layer"] for record in records if record["id"] == image.fingerprint)
    known = {
        record["id"]: record
        for record in json.loads((storage() / "overlay-layers" / "layers.json").read_text())
    }
    layers = []
    while top:
        layers.append(Layer(known[top]["diff-digest"], storage() / "overlay" / top / "diff"))
        top = known[top].get("parent")
    manifest = (folder / "manifest").read_bytes()
    return Unpacked(manifest, config.read_bytes(), tuple(reversed(layers)))


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The names of the file systems that grow layer by layer, as the OCI image format has it."""
    chain = diff_ids[:1]
    for diff_id in diff_ids[1:]:
        chain.append(f"sha256:{sha256(f'{chain[-1]} {diff_id}'.encode()).hexdigest()}")
    return chain


def _record(reference: str) -> Path:
    return cache_dir() / "images" / "built" / f"{quote(reference, safe='')}.json"


def remember(image: Image, key: str) -> None:
    """Record that this is the newest image of its name, made from what `key` stands for."""
    with written_whole(_record(image.reference)) as beside:
        beside.write_text(json.dumps({**asdict(image), "key": key}))


def built(reference: str, key: str | None = None) -> Image | None:
    """The newest image of this name that was built here; with a key, only if made from that."""
    try:
        record: dict[str, Any] = json.loads(_record(reference).read_text())
    except FileNotFoundError:
        return None
    made_from = record.pop("key")
    image = Image(**record)
    is_there = (storage() / "overlay-images" / image.fingerprint / "manifest").exists()
    return image if is_there and key in (None, made_from) else None


def resolve(text: str) -> Image:
    """The image that a user means: the path of an archive, or the name of an image built here."""
    if Path(text).is_file():
        return from_archive(Path(text))
    image = built(text)
    if image is None:
        raise WrongUse(
            f"{text!r} is neither an image archive nor an image built here: "
            "build it with `python -m devcluster build-image`."
        )
    return image


def from_archive(path: Path) -> Image:
    """Read name and fingerprint of an archive (OCI or docker).

    Raises: WrongUse when it is none, or does not say what its image is called.
    """
    with tarfile.open(path) as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        found = members.get("index.json") or members.get("manifest.json")
        file = tar.extractfile(found) if found else None
        index = json.loads(file.read()) if file else None
    if isinstance(index, dict):
        notes = index["manifests"][0].get("annotations", {})
        name = notes.get("io.containerd.image.name") or notes.get(
            "org.opencontainers.image.ref.name"
        )
    else:
        name = (index[0].get("RepoTags") or [None])[0] if index else None
    if not name:
        raise WrongUse(f"{path} is no image archive with a name in it.")
    return Image(name, digest(json.dumps(index)), str(path.absolute()))
