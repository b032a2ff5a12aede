"""What an image is to us: a name, a fingerprint, and a way to feed it to a containerd.

Images that we build lie in one folder in OCI layout, so that layers common to several of them are
there once; they are fed as a stream that holds only what the receiver lacks. Archives made by
others are fed as they are.
"""

import io
import json
import tarfile
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from devcluster.errors import WrongUse
from devcluster.paths import cache_dir, digest, written_whole

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be given to nodes.

    archive: a tar file; None for one of ours, which is then found by its manifest's digest.
    """

    reference: str
    fingerprint: str
    archive: str | None = None

    def feed(self, target: IO[bytes], present: AbstractSet[str]) -> None:
        """Write an archive to `target`, without those of our blobs that are `present` there."""
        if self.archive is not None:
            with Path(self.archive).open("rb") as file:
                while block := file.read(1 << 20):
                    target.write(block)
            return
        manifest_entry = {"digest": self.fingerprint, "size": blob(self.fingerprint).stat().st_size}
        manifest = json.loads(blob(self.fingerprint).read_text())
        manifest_entry["mediaType"] = manifest.get("mediaType", MANIFEST)
        manifest_entry["annotations"] = {"io.containerd.image.name": self.reference}
        blobs = [manifest_entry, manifest["config"], *manifest["layers"]]
        with tarfile.open(fileobj=target, mode="w|", bufsize=1 << 20) as tar:
            _write_text(tar, "oci-layout", '{"imageLayoutVersion":"1.0.0"}')
            for entry in blobs:
                if entry["digest"] not in present:
                    name = entry["digest"].replace(":", "/")
                    tar.add(blob(entry["digest"]), f"blobs/{name}")
            index = {"schemaVersion": 2, "manifests": [manifest_entry]}
            _write_text(tar, "index.json", json.dumps(index))


def layout() -> Path:
    """The folder in OCI layout that holds all images built here."""
    return cache_dir() / "images" / "layout"


def blob(name: str) -> Path:
    """The file of a blob in the layout, by its digest."""
    return layout() / "blobs" / name.replace(":", "/")


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
    if key not in (None, made_from) or not blob(image.fingerprint).exists():
        return None
    return image


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


def _write_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    data = text.encode()
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
