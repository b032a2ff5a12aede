"""How a job's code comes into its pods: as a volume, or by a container that fetches it first.

The fetcher runs as the job's user with the job's rights, and is the only container that sees the
credentials.  Its image is the operator's trainer image, which has git.
"""

from typing import Any

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.types import Code, DeepSpeedJobSpec, RunCode
from deepspeed_operator.build.run import derive_storage_path
from deepspeed_operator.errors import InvalidJob
from deepspeed_trainer import contract

VOLUME = "code"
SECRET_VOLUME = "code-secret"  # noqa: S105  a volume's name
SOURCE_VOLUME = "code-source"


def build_code_volume(spec: DeepSpeedJobSpec, code: Code) -> dict[str, Any]:
    """Return the volume that is mounted at /mnt/code.

    Raises:
        InvalidJob: no source is set.
    """
    if is_fetched(spec, code):
        return {"emptyDir": {}}
    if code.volume is not None:
        # The mount alone is read-only: said here, it would hold for storage on the same claim too.
        return {"persistentVolumeClaim": {"claimName": code.volume.claim}}
    if code.config_map is not None:
        # A command must be executable, and a ConfigMap cannot say which of its files are.
        return {"configMap": {"name": code.config_map.name, "defaultMode": 0o555}}
    raise InvalidJob("spec.code: set one of code.git, code.archive, configMap and volume")


def is_fetched(spec: DeepSpeedJobSpec, code: Code) -> bool:
    """Return whether pods unpack the run's copy.

    A ConfigMap is mounted as it is where there is no storage to keep a copy of it.
    """
    if code.config_map is not None:
        return spec.storage is not None
    return code.git is not None or code.archive is not None


def build_code_mount(code: Code) -> dict[str, Any]:
    """Return how the program's container mounts it."""
    mount = {"name": VOLUME, "mountPath": contract.CODE_MOUNT, "readOnly": True}
    if code.volume is not None and code.volume.path:
        mount["subPath"] = code.volume.path
    return mount


def derive_code_folder(job: JobFacts) -> str:
    """Return the folder of the run's copy, below the storage's root."""
    return f"{derive_storage_path(job)}/{contract.CODE_DIR}"


def derive_copy_path(job: JobFacts, frozen: contract.FrozenCode) -> str:
    """Return where the run's copy lies, below the storage's root."""
    return f"{derive_code_folder(job)}/{frozen.sha256}.tar"


def add_fetcher(
    pod: dict[str, Any],
    job: JobFacts,
    spec: DeepSpeedJobSpec,
    *,
    image: str,
    is_head: bool,
    frozen: RunCode | None,
) -> None:
    """Add the container that fetches the code to a pod's spec, where the source needs one.

    Raises:
        InvalidJob: there is no storage for the run's copy.
    """
    if spec.code is None or not is_fetched(spec, spec.code):
        return
    # Only one pod reads the source, and none when the run has its copy.
    makes_copy = is_head and frozen is None
    order = _build_order(job, spec, spec.code, makes_copy=makes_copy, frozen=frozen)
    main = pod["containers"][0]
    mounts = [m for m in main["volumeMounts"] if m["name"] in {"tmp", "storage"}]
    mounts.append({"name": VOLUME, "mountPath": contract.CODE_MOUNT})
    for volume, path in _build_sources(spec.code) if makes_copy else ():
        pod["volumes"].append(volume)
        mounts.append({"name": volume["name"], "mountPath": path, "readOnly": True})
    memory = main["resources"]["requests"]["memory"]
    fetcher = {
        "name": contract.CODE_CONTAINER,
        "image": image,
        "command": list(contract.CODE_COMMAND),
        # As much as Ray gets afterwards, so the pod asks for no more than without it.
        "resources": {
            "requests": {"cpu": main["resources"]["requests"]["cpu"], "memory": memory},
            "limits": {"memory": memory},
        },
        "securityContext": main["securityContext"],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108  the one writable place
            {"name": contract.CODE_ENV, "value": order.to_json()},
        ],
        "volumeMounts": mounts,
    }
    if "envFrom" in main:
        fetcher["envFrom"] = main["envFrom"]
    pod.setdefault("initContainers", []).append(fetcher)


def _build_sources(code: Code) -> list[tuple[dict[str, Any], str]]:
    """Return the volumes that the fetcher alone sees, and where."""
    if code.config_map is not None:
        source = {"name": SOURCE_VOLUME, "configMap": {"name": code.config_map.name}}
        return [(source, contract.CODE_SOURCE_MOUNT)]
    given = code.git or code.archive
    if given is None or given.secret_ref is None:
        return []
    # Optional: a pod whose Secret is missing would wait in silence; the fetcher says it.
    secret = {"secretName": given.secret_ref.name, "optional": True, "defaultMode": 0o440}
    return [({"name": SECRET_VOLUME, "secret": secret}, contract.CODE_SECRET_MOUNT)]


def _build_order(
    job: JobFacts,
    spec: DeepSpeedJobSpec,
    code: Code,
    *,
    makes_copy: bool,
    frozen: RunCode | None,
) -> contract.CodeOrder:
    if spec.storage is None:
        raise InvalidJob("spec.storage: code.git and code.archive need it for the run's copy")
    order: dict[str, Any] = {
        "makes_copy": makes_copy,
        "storage": spec.storage.uri or contract.STORAGE_MOUNT,
        "folder": derive_code_folder(job),
        "expected": "" if frozen is None else frozen.sha256,
    }
    if (git := code.git) is not None:
        secret = git.secret_ref.name if git.secret_ref else ""
        return contract.CodeOrder(
            kind="git", uri=git.url, ref=git.ref, path=git.path, secret=secret, **order
        )
    if (archive := code.archive) is not None:
        secret = archive.secret_ref.name if archive.secret_ref else ""
        return contract.CodeOrder(
            kind="archive",
            uri=archive.uri,
            sha256=archive.sha256,
            path=archive.path,
            secret=secret,
            **order,
        )
    return contract.CodeOrder(kind="configMap", **order)
