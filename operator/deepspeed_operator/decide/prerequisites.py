"""What a job needs before an attempt opens, and the sentence for each thing that is missing."""

from datetime import datetime

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.api.names import Reason
from deepspeed_operator.build.sizing import derive_device, derive_head_sizes, derive_worker_sizes
from deepspeed_operator.decide.deepspeed import read_config
from deepspeed_operator.decide.observed import Defaults, Observed, Prerequisites, Wanted
from deepspeed_operator.decide.view import View, read_view
from deepspeed_operator.errors import InvalidJob

Unmet = tuple[Reason, str]


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
    source = view.spec.deepspeed.config_map
    config_map = None if source is None else source.name
    attempt = view.open_attempt
    if attempt is not None:
        # Everything else is settled; the configuration is read once more for the submission.
        return Wanted(config_map=config_map) if attempt.state == "Submitting" else None
    return Wanted(
        kuberay=True,
        config_map=config_map,
        claim=None if view.spec.storage is None else view.spec.storage.volume_claim,
        device=derive_device(view.spec) if defaults.capacity_check else None,
    )


def find_unmet(view: View, answers: Prerequisites) -> Unmet | None:
    """Return the first thing that is missing, with what to do about it."""
    try:
        derive_head_sizes(view.spec)
        derive_worker_sizes(view.spec)
    except InvalidJob as error:
        return Reason.INVALID_SPEC, str(error)
    for check in (_kuberay, _storage, _claim, _config_map, _device):
        unmet = check(view, answers)
        if unmet is not None:
            return unmet
    return find_config_fault(view, answers)


def find_config_fault(view: View, answers: Prerequisites) -> Unmet | None:
    """Return what is wrong with the DeepSpeed configuration."""
    missing = _config_map(view, answers)
    if missing is not None:
        return missing
    try:
        read_config(view.spec, answers.config_map)
    except InvalidJob as error:
        return Reason.DEEPSPEED_CONFIG_INVALID, str(error)
    return None


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
        f"spec.storage is not set, but {view.spec.nodes} nodes need a volume that all of them"
        " share for checkpoints: name a ReadWriteMany claim in spec.storage.volumeClaim",
    )


def _claim(view: View, answers: Prerequisites) -> Unmet | None:
    if view.spec.storage is None:
        return None
    name, claim = view.spec.storage.volume_claim, answers.claim
    if claim is None:
        return (
            Reason.CLAIM_MISSING,
            f"spec.storage.volumeClaim: there is no PersistentVolumeClaim {name!r} in namespace"
            f" {view.job.key.namespace}; create it, the job starts by itself afterwards",
        )
    if view.spec.nodes > 1 and "ReadWriteMany" not in claim.access_modes:
        return (
            Reason.CLAIM_NOT_SHARED,
            f"spec.storage.volumeClaim: {name!r} has access mode {', '.join(claim.access_modes)},"
            f" but {view.spec.nodes} nodes need ReadWriteMany; use a claim that has it",
        )
    return None


def _config_map(view: View, answers: Prerequisites) -> Unmet | None:
    source = view.spec.deepspeed.config_map
    if source is None:
        return None
    if answers.config_map is None:
        return (
            Reason.CONFIG_MAP_MISSING,
            f"spec.deepspeed.configMap: there is no ConfigMap {source.name!r} in namespace"
            f" {view.job.key.namespace}; create it, the job starts by itself afterwards",
        )
    if source.key not in answers.config_map:
        return (
            Reason.CONFIG_MAP_MISSING,
            f"spec.deepspeed.configMap.key: ConfigMap {source.name!r} has no key {source.key!r};"
            f" it has {', '.join(sorted(answers.config_map)) or 'none'}",
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
