"""From a manifest to the contract of a local run, by the operator's own checks and builders.

What differs from a cluster is said here and nowhere else: storage is a folder, ranks share this
machine's cores, ConfigMaps come from the given files.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from deepspeed_operator.api.job import JobFacts, JobKey, Uid
from deepspeed_operator.api.types import Attempt, DeepSpeedJobSpec
from deepspeed_operator.build.run import RUN_NAME, build_contract
from deepspeed_operator.cli.ends import Refused, Unavailable, WrongUse
from deepspeed_operator.cli.local.checks import check_job
from deepspeed_operator.cli.manifests import Object, only_job
from deepspeed_operator.decide.deepspeed import read_config
from deepspeed_operator.decide.environment import read_environment
from deepspeed_operator.decide.observed import (
    ClaimFacts,
    Defaults,
    Observed,
    Prerequisites,
    Wanted,
)
from deepspeed_operator.decide.prerequisites import (
    derive_ordered_config_maps,
    derive_wanted,
    find_unmet,
)
from deepspeed_operator.decide.status import format_time
from deepspeed_operator.decide.view import View, read_view
from deepspeed_operator.errors import InvalidJob
from deepspeed_trainer import contract

HEAD: Final = "local-head"
CLUSTER: Final = "local"
NAMESPACE: Final = "default"
RANKS_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line adds to the manifest."""

    storage: Path
    job: str | None = None
    """Name of the job, where the files hold several."""
    accelerator: str | None = None
    """Instead of the job's own accelerator.type."""
    resume: bool = False
    """Continue the last local run of this job."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A local run, ready to be started."""

    view: View
    attempt: Attempt
    contract: contract.RunContract
    code: Mapping[str, str] | None = None
    """Files of the program, where the given files hold the ConfigMap of spec.code."""

    @property
    def folder(self) -> Path:
        """Where this attempt writes."""
        order = self.contract
        root = order.storage or ""
        return Path(contract.attempt_dir(root, order.job, order.run, order.attempt))


def plan_run(
    objects: Sequence[Object],
    wishes: Wishes,
    note: Callable[[str], None],
    *,
    now: datetime,
    cores: int,
) -> Plan:
    """Check a job as the API server and the operator would, and order its run.

    Raises:
        Refused: the job would be refused, or would not start, on a cluster either.
        WrongUse: something that the job names is not in the given files.
    """
    document = only_job(objects, wishes.job)
    spec = check_job(_with_accelerator(document, wishes.accelerator), note)
    run, number = _count(wishes, document)
    job = _build_job(document, spec, run)
    view = read_view(job, Observed(), Defaults(trainer_image=CLUSTER), now)
    answers = _read_answers(view, objects)
    if (unmet := find_unmet(view, answers)) is not None:
        raise Refused(f"{unmet[0]}: {unmet[1]}")
    attempt = Attempt(
        number=number,
        state="Opened",
        cluster=CLUSTER,
        submission_id=f"{run}-a{number}",
        start_time=format_time(now),
    )
    ordered = _build_order(view, attempt, answers)
    ordered = replace(
        ordered,
        storage=str(wishes.storage.resolve()),
        cpus_per_rank=float(max(1, cores // ordered.world_size)),
        ranks_timeout_s=RANKS_TIMEOUT_S,
        # All nodes are this machine: each would bind its ranks to the same cores.
        bind_cores=False,
    )
    return Plan(view, attempt, ordered, _find_code(spec, answers))


def refuse_missing_devices(spec: DeepSpeedJobSpec, devices: int) -> None:
    """Raise Unavailable when the job wants more devices than this machine has."""
    wanted = spec.nodes * spec.gpus_per_node
    if spec.accelerator.type != "CPU" and devices < wanted:
        raise Unavailable(
            f"the job asks for {wanted} {spec.accelerator.type} devices ({spec.nodes} nodes x"
            f" {spec.gpus_per_node}), and this machine has {devices}: add --accelerator CPU to"
            " try it on the CPU, with gloo"
        )


def _build_job(document: Object, spec: DeepSpeedJobSpec, run: str) -> JobFacts:
    """Return the job as if an API server had it."""
    meta = document["metadata"]
    return JobFacts(
        key=JobKey(meta.get("namespace", NAMESPACE), meta["name"]),
        uid=Uid(run),
        generation=1,
        resource_version="1",
        deleting=False,
        spec=spec.model_dump(by_alias=True, exclude_none=True),
        status={},
    )


def _build_order(view: View, attempt: Attempt, answers: Prerequisites) -> contract.RunContract:
    try:
        return build_contract(
            view.job,
            view.spec,
            attempt,
            head_uid=HEAD,
            deepspeed_config=read_config(view.spec, answers.config_maps, view.first_nodes),
            env=read_environment(view.spec, answers.config_maps),
            # Whoever sits before it wants to see the first failure.
            restarts_left=0,
        )
    except InvalidJob as error:
        raise Refused(str(error)) from error


def _with_accelerator(document: Object, kind: str | None) -> Object:
    if kind is None or not isinstance(document.get("spec"), dict):
        return document
    return {**document, "spec": {**document["spec"], "accelerator": {"type": kind}}}


def _read_answers(view: View, objects: Sequence[Object]) -> Prerequisites:
    """Answer from the files what the operator asks the API server for.

    Claims that they do not hold are taken to be right; so is code, which then is in the workdir.
    """
    wanted = derive_wanted(view.job, view.observed, view.defaults, view.now) or Wanted()
    ordered = derive_ordered_config_maps(view.spec)
    config_maps: dict[str, Mapping[str, str]] = {}
    for name in wanted.config_maps:
        found = _find(view, objects, "ConfigMap", name)
        if found is None and name in ordered:
            raise WrongUse(
                f"spec.deepspeed names ConfigMap {name!r}, which is in none of the given files: add"
                " its manifest with another -f"
            )
        config_maps[name] = dict((found or {}).get("data") or {})
    claims = {name: _find_claim(view, objects, name) for name in wanted.claims}
    return Prerequisites(
        kuberay_served=None, config_maps=config_maps, claims=claims, largest_device_count=None
    )


def _find_claim(view: View, objects: Sequence[Object], name: str) -> ClaimFacts:
    found = _find(view, objects, "PersistentVolumeClaim", name)
    modes = ["ReadWriteMany"] if found is None else (found.get("spec") or {}).get("accessModes", [])
    return ClaimFacts(tuple(modes), "Bound")


def _find_code(spec: DeepSpeedJobSpec, answers: Prerequisites) -> Mapping[str, str] | None:
    if spec.code is None or spec.code.config_map is None:
        return None
    return answers.config_maps.get(spec.code.config_map.name) or None


def _find(view: View, objects: Sequence[Object], kind: str, name: str) -> Object | None:
    namespace = view.job.key.namespace
    for each in objects:
        meta = each["metadata"]
        if (each["kind"], meta["name"]) == (kind, name) and (
            meta.get("namespace", namespace) == namespace
        ):
            return each
    return None


def _count(wishes: Wishes, document: Object) -> tuple[str, int]:
    """Return the name of the run and the number of its attempt, by what lies on the storage.

    A local run is a job of its own, as after kubectl delete and apply; with `resume` it is the
    next attempt of the last one.
    """
    meta = document["metadata"]
    home = wishes.storage / meta.get("namespace", NAMESPACE) / meta["name"]
    last = max((n for each in _names(home) if (n := _number(each, "local-"))), default=0)
    if not wishes.resume:
        return f"local-{last + 1}", 1
    if last == 0:
        raise WrongUse(f"there is no run of {meta['name']!r} in {wishes.storage} to continue")
    runs = home / f"local-{last}" / RUN_NAME
    return f"local-{last}", 1 + max((_number(each, "attempt-") for each in _names(runs)), default=0)


def _names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()] if folder.is_dir() else []


def _number(name: str, prefix: str) -> int:
    found = re.fullmatch(rf"{prefix}(\d+)", name)
    return int(found[1]) if found else 0
