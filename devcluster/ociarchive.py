"""Write an image of a single static program as an OCI archive; no image tool is needed for that.

The archive depends on nothing but its arguments: no time stamps, no names of this machine.
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
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
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
        "config": _add(files, f"{OCI}.image.config.v1+json", json.dumps(config).encode()),
        "layers": [_add(files, f"{OCI}.image.layer.v1.tar", layer)],
    }
    entry = _add(files, f"{OCI}.image.manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {"io.containerd.image.name": reference}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    target.write_bytes(_tar(files, mode=0o644))


def _add(files: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    digest = _sha256(data)
    files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
