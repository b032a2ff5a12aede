"""What a job needs before an attempt opens, and the sentence for each thing that is missing."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.build.sizing import derive_device, derive_head_sizes, derive_worker_sizes
from deepspeed_operator.decide.deepspeed import read_config
from deepspeed_operator.decide.environment import read_environment
from deepspeed_operator.decide.observed import Defaults, Observed, Prerequisites, Wanted
from deepspeed_operator.decide.view import View, read_view
from deepspeed_operator.errors import InvalidJob

Unmet = tuple[Reason, str]

SHARED_MODES: Final = {
    "storage.volumeClaim": frozenset({"ReadWriteMany"}),
    "code.volume.claim": frozenset({"ReadWriteMany", "ReadOnlyMany"}),
}
"""Access modes that several nodes can mount at once, for what the field needs."""


def derive_wanted(
    job: JobFacts, observed: Observed, defaults: Defaults, now: datetime
) -> Wanted | None:
    """Return what the loop has to ask the API server before this pass, or None."""
    try:
        view = read_view(job, observed, defaults, now)
    except InvalidJob:
        return None
    if job.deleting or view.is_finished:
        return None
    keys = derive_ordered_config_maps(view.spec)
    attempt = view.open_attempt
    if attempt is not None:
        # Everything else is settled; what the run is told is read once more for the submission.
        return Wanted(config_maps=keys) if attempt.state == "Submitting" and keys else None
    return Wanted(
        kuberay=True,
        config_maps=frozenset(name for _, name, _ in _needed_config_maps(view)),
        claims=frozenset(name for _, name in _named_claims(view.spec)),
        device=derive_device(view.spec) if defaults.capacity_check else None,
    )


def derive_ordered_config_maps(spec: DeepSpeedJobSpec) -> frozenset[str]:
    """Return the ConfigMaps whose content goes into what a run is told."""
    return frozenset(name for _, name, key in _named_config_maps(spec) if key)


def find_unmet(view: View, answers: Prerequisites) -> Unmet | None:
    """Return the first thing that is missing, with what to do about it."""
    try:
        derive_head_sizes(view.spec)
        derive_worker_sizes(view.spec)
    except InvalidJob as error:
        return Reason.INVALID_SPEC, str(error)
    for check in (_kuberay, _storage, _claims, _config_maps, _device):
        unmet = check(view, answers)
        if unmet is not None:
            return unmet
    return find_order_fault(view, answers)


def find_order_fault(view: View, answers: Prerequisites) -> Unmet | None:
    """Return what is wrong with what the run will be told: configuration and environment."""
    spec, known = view.spec, answers.config_maps
    for field, name, key in _named_config_maps(spec):
        if key and (fault := _config_map(view, field, name, known.get(name), key)):
            return fault
    try:
        read_config(spec, known, view.first_nodes)
    except InvalidJob as error:
        return Reason.DEEPSPEED_CONFIG_INVALID, str(error)
    try:
        read_environment(spec, known)
    except InvalidJob as error:
        return Reason.ENVIRONMENT_INVALID, str(error)
    return None


def _named_config_maps(spec: DeepSpeedJobSpec) -> Iterator[tuple[str, str, str | None]]:
    """Yield field, name and key of each ConfigMap; no key where all of it is mounted."""
    if spec.deepspeed.config_map is not None:
        source = spec.deepspeed.config_map
        yield "deepspeed.configMap", source.name, source.key
    if spec.deepspeed.env_file is not None:
        file = spec.deepspeed.env_file.config_map
        yield "deepspeed.envFile.configMap", file.name, file.key
    if spec.code is not None and spec.code.config_map is not None:
        yield "code.configMap", spec.code.config_map.name, None


def _needed_config_maps(view: View) -> Iterator[tuple[str, str, str | None]]:
    """Yield what `_named_config_maps` does, without code of which the run has its own copy."""
    run = view.status.run
    has_copy = run is not None and run.code is not None
    for field, name, key in _named_config_maps(view.spec):
        if not (has_copy and field == "code.configMap"):
            yield field, name, key


def _named_claims(spec: DeepSpeedJobSpec) -> Iterator[tuple[str, str]]:
    """Yield field and name of each claim."""
    if spec.storage is not None and spec.storage.volume_claim is not None:
        yield "storage.volumeClaim", spec.storage.volume_claim
    if spec.code is not None and spec.code.volume is not None:
        yield "code.volume.claim", spec.code.volume.claim


def _kuberay(view: View, answers: Prerequisites) -> Unmet | None:
    if answers.kuberay_served is not False:
        return None
    return (
        Reason.KUBERAY_MISSING,
        "this cluster has no RayCluster resource (ray.io/v1): install the KubeRay operator, for"
        " instance by its Helm chart kuberay-operator; the job starts by itself afterwards",
    )


def _storage(view: View, answers: Prerequisites) -> Unmet | None:
    if view.spec.storage is not None or view.spec.nodes == 1:
        return None
    return (
        Reason.STORAGE_MISSING,
        f"spec.storage is not set, but {view.spec.nodes} nodes need a place that all of them"
        " share for checkpoints: name a ReadWriteMany claim in spec.storage.volumeClaim, or a"
        " bucket in spec.storage.uri",
    )


def _claims(view: View, answers: Prerequisites) -> Unmet | None:
    for field, name in _named_claims(view.spec):
        claim = answers.claims.get(name)
        if claim is None:
            return (
                Reason.CLAIM_MISSING,
                f"spec.{field}: there is no PersistentVolumeClaim {name!r} in namespace"
                f" {view.job.key.namespace}; create it, the job starts by itself afterwards",
            )
        shared = SHARED_MODES[field]
        if view.spec.nodes > 1 and not shared & set(claim.access_modes):
            return (
                Reason.CLAIM_NOT_SHARED,
                f"spec.{field}: {name!r} has access mode {', '.join(claim.access_modes)}, but"
                f" {view.spec.nodes} nodes need {' or '.join(sorted(shared))}; use a claim that"
                " has it",
            )
    return None


def _config_maps(view: View, answers: Prerequisites) -> Unmet | None:
    for field, name, key in _needed_config_maps(view):
        if unmet := _config_map(view, field, name, answers.config_maps.get(name), key):
            return unmet
    return None


def _config_map(
    view: View, field: str, name: str, data: Mapping[str, str] | None, key: str | None
) -> Unmet | None:
    if data is None:
        return (
            Reason.CONFIG_MAP_MISSING,
            f"spec.{field}: there is no ConfigMap {name!r} in namespace"
            f" {view.job.key.namespace}; create it, the job starts by itself afterwards",
        )
    if key is not None and key not in data:
        return (
            Reason.CONFIG_MAP_MISSING,
            f"spec.{field}.key: ConfigMap {name!r} has no key {key!r};"
            f" it has {', '.join(sorted(data)) or 'none'}",
        )
    return None


def _device(view: View, answers: Prerequisites) -> Unmet | None:
    device, most = derive_device(view.spec), answers.largest_device_count
    if device is None or most is None or most >= view.spec.gpus_per_node:
        return None
    offered = f"the most that a node offers is {most}" if most else "no node offers any"
    return (
        Reason.ACCELERATOR_MISSING,
        f"each node needs {view.spec.gpus_per_node} {device}, but {offered}: install the device"
        " plugin, lower spec.gpusPerNode, set spec.accelerator, or, where nodes are added on"
        " demand, install the chart with capacityCheck=false",
    )
