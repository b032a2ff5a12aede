"""Write small OCI archives: an image of a single static program, without any image tool.

An archive depends on nothing but its arguments: no time stamps, no names of this machine.
"""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_program_image(target: Path, program: Path, reference: str) -> None:
    """Write an archive with an image that holds this one program, and runs it."""
    layer = write_tar({program.name: program.read_bytes()}, mode=0o755)
    machine = platform.machine()
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [_sha256(layer)]},
    }
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.image.manifest.v1+json",
        "config": add_blob(files, f"{OCI}.image.config.v1+json", json.dumps(config).encode()),
        "layers": [add_blob(files, f"{OCI}.image.layer.v1.tar", layer)],
    }
    entry = add_blob(files, f"{OCI}.image.manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {"io.containerd.image.name": reference}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    target.write_bytes(write_tar(files))


def add_blob(files: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    """Add a blob to the files of an archive; returns what refers to it."""
    digest = _sha256(data)
    files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write_tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    """A tar of these files, the same for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
