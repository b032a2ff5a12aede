"""From KubeRay's RayJob to a job.

What has a field here is taken out of the manifest; what is left at the end is named, so that
nothing is lost in silence.
"""

import shlex
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import PurePath
from typing import Any, Final

import yaml

from deepspeed_operator.cli.convert.draft import Draft
from deepspeed_operator.cli.convert.launcher import ReadFile, draft_launch
from deepspeed_operator.cli.ends import WrongUse
from deepspeed_trainer.contract import CODE_MOUNT, STORAGE_MOUNT

GPU: Final = "nvidia.com/gpu"
MOST_NAMED: Final = 40
_SIZES: Final = ("spec.nodes", "spec.gpusPerNode")
UNNEEDED: Final = (
    "submissionMode", "shutdownAfterJobFinishes", "jobId", "rayClusterSpec.rayVersion",
    "rayClusterSpec.enableInTreeAutoscaling",
)  # fmt: skip
"""Fields of the spec whose work is done by the operator itself."""


def convert_rayjob(found: Mapping[str, Any], read_file: ReadFile) -> Draft:
    """Return the job of a RayJob.

    Raises:
        WrongUse: the manifest is none that KubeRay would take, or its entrypoint cannot be read.
    """
    left = deepcopy(dict(found["spec"])) if isinstance(found.get("spec"), dict) else {}
    metadata = found["metadata"]
    words = _split(_take(left, "entrypoint"))
    draft = _convert_entrypoint(words, read_file)
    draft.name, draft.namespace = metadata["name"], metadata.get("namespace")
    for path in UNNEEDED:
        _take(left, path)
    _set_policies(draft, left)
    _set_runtime_env(draft, left)
    _set_workers(draft, left)
    _set_head(draft, left)
    _note_left(draft, left)
    return draft


def _split(entrypoint: Any) -> list[str]:
    if not isinstance(entrypoint, str) or not entrypoint.strip():
        raise WrongUse("spec.entrypoint of the RayJob is missing: there is nothing to run")
    try:
        return shlex.split(entrypoint)
    except ValueError as error:
        raise WrongUse(f"spec.entrypoint of the RayJob: {error}") from error


def _convert_entrypoint(words: list[str], read_file: ReadFile) -> Draft:
    rest = [word for word in words[1:2] if word != "-u"] + words[2:]
    if PurePath(words[0]).name.startswith("python") and rest[:1] and rest[0].endswith(".py"):
        draft = Draft("")
        draft.spec["entrypoint"] = {"driver": rest[0]}
        if rest[1:]:
            draft.spec["entrypoint"]["args"] = rest[1:]
        draft.note(
            "spec.entrypoint.driver",
            "num_workers of its ScalingConfig becomes nodes x gpusPerNode",
        )
        return draft
    try:
        draft = draft_launch(words, read_file)
    except WrongUse as error:
        raise WrongUse(
            f"spec.entrypoint of the RayJob is neither `python FILE` nor a launcher: {error}"
        ) from error
    # The cluster says its size itself.
    draft.notes = [each for each in draft.notes if not each.startswith(_SIZES)]
    return draft


def _set_policies(draft: Draft, left: dict[str, Any]) -> None:
    restarts, ttl = _take(left, "backoffLimit"), _take(left, "ttlSecondsAfterFinished")
    if restarts is not None:
        draft.spec["failurePolicy"] = {"maxRestarts": restarts}
    if ttl is not None:
        draft.spec["ttlSecondsAfterFinished"] = ttl


def _set_runtime_env(draft: Draft, left: dict[str, Any]) -> None:
    text = _take(left, "runtimeEnvYAML")
    try:
        found = yaml.safe_load(text) if isinstance(text, str) else {}
    except yaml.YAMLError as error:
        raise WrongUse(f"spec.runtimeEnvYAML of the RayJob is no YAML: {error}") from error
    for name, value in ((found or {}).pop("env_vars", None) or {}).items():
        draft.add_env(str(name), str(value))
    if found:
        draft.note("spec.image", f"runtimeEnvYAML brought {', '.join(sorted(found))}: build it in")


def _set_workers(draft: Draft, left: dict[str, Any]) -> None:
    groups = _get(left, "rayClusterSpec.workerGroupSpecs")
    if not isinstance(groups, list) or not groups:
        raise WrongUse("spec.rayClusterSpec.workerGroupSpecs of the RayJob has no group of workers")
    group = groups[0]
    if len(groups) > 1:
        draft.note("spec.nodes", f"of {len(groups)} groups of workers the first was taken")
    replicas = _take(group, "replicas")
    for name in ("minReplicas", "maxReplicas", "groupName"):
        _take(group, name)
    draft.spec["nodes"] = 1 if replicas is None else replicas
    container = _container(group)
    image, pull = _take(container, "image"), _take(container, "imagePullPolicy")
    if image is not None:
        draft.spec["image"] = image
        draft.note("spec.image", "it must be built on the trainer image")
    if pull is not None:
        draft.spec["imagePullPolicy"] = pull
    _set_resources(draft, container)
    folder = _take(container, "workingDir")
    if folder is not None:
        draft.spec["entrypoint"]["workingDir"] = folder
    selector = _take(group, "template.spec.nodeSelector")
    if selector:
        draft.spec["scheduling"] = {"nodeSelector": selector}
    _take_env(draft, container)
    _set_volumes(draft, _get(group, "template.spec") or {}, container)


def _set_resources(draft: Draft, container: dict[str, Any]) -> None:
    gpus = _take_resource(container, GPU)
    if gpus is None:
        draft.spec["accelerator"] = {"type": "CPU"}
        draft.note(
            "spec.accelerator", f"no {GPU} was asked for, so it is CPU, with one rank a node"
        )
    draft.spec["gpusPerNode"] = 1 if gpus is None else int(gpus)
    _set_compute(draft, "worker", container)


def _set_compute(draft: Draft, section: str, container: dict[str, Any]) -> None:
    found = {name: _take_resource(container, name) for name in ("cpu", "memory")}
    given = {name: value for name, value in found.items() if value is not None}
    if given:
        draft.spec.setdefault(section, {})["resources"] = given


def _set_head(draft: Draft, left: dict[str, Any]) -> None:
    group = _get(left, "rayClusterSpec.headGroupSpec") or {}
    container = _container(group)
    image = _take(container, "image")
    if image is not None and image != draft.spec.get("image"):
        draft.note("spec.image", f"the head had {image}; head and workers have one image here")
    _take(container, "imagePullPolicy")
    _take(container, "ports")
    _take_env(draft, container)
    _set_compute(draft, "head", container)


def _take_env(draft: Draft, container: dict[str, Any]) -> None:
    variables = container.get("env") or []
    for variable in [v for v in variables if isinstance(v, dict) and "value" in v]:
        draft.add_env(str(variable["name"]), str(variable["value"]))
        variables.remove(variable)


def _set_volumes(draft: Draft, pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Take the first claim as storage and the first ConfigMap as code; others are left."""
    for volume in list(pod.get("volumes") or []):
        claim = _get(volume, "persistentVolumeClaim.claimName")
        files = _get(volume, "configMap.name")
        memory = _get(volume, "emptyDir.medium") == "Memory"
        if claim and "storage" not in draft.spec:
            draft.spec["storage"] = {"volumeClaim": claim}
            place = STORAGE_MOUNT
        elif files and "code" not in draft.spec:
            draft.spec["code"] = {"configMap": {"name": files}}
            place = CODE_MOUNT
        elif memory:
            size = _get(volume, "emptyDir.sizeLimit")
            if size is not None:
                draft.spec.setdefault("worker", {})["sharedMemory"] = size
            place = "/dev/shm"  # noqa: S108
        else:
            continue
        pod["volumes"].remove(volume)
        _take_mount(draft, container, volume.get("name"), place)


def _take_mount(draft: Draft, container: dict[str, Any], name: Any, place: str) -> None:
    mounts = container.get("volumeMounts") or []
    for mount in [each for each in mounts if each.get("name") == name]:
        mounts.remove(mount)
        if mount.get("mountPath") != place:
            draft.note(
                "spec.entrypoint",
                f"what lay at {mount.get('mountPath')} is at {place}: change paths",
            )


def _container(group: dict[str, Any]) -> dict[str, Any]:
    containers = _get(group, "template.spec.containers")
    if not isinstance(containers, list) or not containers:
        return {}
    _take(containers[0], "name")
    return _map(containers[0])


def _map(value: Any) -> dict[str, Any]:
    """Return the map itself, not a copy; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _get(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = _map(found).get(name)
    return found


def _take(found: Any, path: str) -> Any:
    """Take a value out; None when it is not there."""
    above, _, name = path.rpartition(".")
    return _map(_get(found, above) if above else found).pop(name, None)


def _take_resource(container: dict[str, Any], name: str) -> Any:
    """Take what a container asks for: the request, or the limit where there is none."""
    kinds = [_map(_get(container, f"resources.{kind}")) for kind in ("requests", "limits")]
    request, limit = (kind.pop(name, None) for kind in kinds)
    return limit if request is None else request


def _note_left(draft: Draft, left: dict[str, Any]) -> None:
    paths = [f"spec{path}" for path in _leaves(left)]
    for path in paths[:MOST_NAMED]:
        draft.note(path, "not carried over")
    if len(paths) > MOST_NAMED:
        draft.note("spec", f"{len(paths) - MOST_NAMED} more fields are not carried over")


def _leaves(found: Any) -> Iterator[str]:
    """Yield the paths of what is left; maps and lists that are empty say nothing."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield from (f".{name}{path}" for path in _leaves(value))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            label = _map(value).get("name")
            inner = {k: v for k, v in value.items() if k != "name"} if label else value
            below = list(_leaves(inner)) or ([""] if label else [])
            yield from (f"[{label or number}]{path}" for path in below)
    else:
        yield ""
