"""The spec of a DeepSpeedJob: what users ask for, field by field.

Each field says default, unit and whether it can change.  Rules between fields are in rules.py; what
only the operator can know (is the ConfigMap there?) is decided in decide/.
"""

from typing import Annotated, Literal

from pydantic import Field

from deepspeed_operator.api.checkpoint import Checkpoint, Storage
from deepspeed_operator.api.code import Code
from deepspeed_operator.api.entrypoint import Entrypoint
from deepspeed_operator.api.hang import Hang
from deepspeed_operator.api.placement import Head, Scheduling, Worker
from deepspeed_operator.api.preemption import Preemption
from deepspeed_operator.api.schema import ApiModel, Name, RawObject, fixed

AcceleratorType = Literal["Nvidia", "CPU"]


class Accelerator(ApiModel):
    """What the ranks compute on."""

    type: AcceleratorType = "Nvidia"
    """Kind of device. Default Nvidia. CPU asks for no device and trains with gloo."""
    resource_name: Annotated[str, Field(max_length=253)] | None = None
    """Extended resource of the device. Default by type, nvidia.com/gpu for Nvidia."""


class ConfigMapKey(ApiModel):
    """One key of a ConfigMap in the job's namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "ds_config.json"
    """Key that holds the JSON text. Default ds_config.json."""


class EnvFileKey(ApiModel):
    """One key of a ConfigMap in the job's namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = ".deepspeed_env"
    """Key that holds the lines. Default .deepspeed_env."""


class EnvFile(ApiModel):
    """Environment variables in the form of the deepspeed launcher's .deepspeed_env."""

    config_map: EnvFileKey
    """The ConfigMap that holds the lines NAME=VALUE. Read when an attempt opens."""


class DeepSpeed(ApiModel):
    """The DeepSpeed configuration: inline or from a ConfigMap, at most one of them."""

    config: RawObject | None = None
    """The configuration itself. A script or module finds it as --deepspeed_config, every program
    in the environment variable DSJOB_DEEPSPEED_CONFIG, both a path."""
    config_map: ConfigMapKey | None = None
    """The ConfigMap that holds the configuration. Read when an attempt opens."""
    env: Annotated[dict[str, Annotated[str, Field(max_length=32768)]], Field(max_length=256)] = {}
    """Environment variables of the ranks, and of a driver program. Default none. They win over
    envFile; what the trainer sets itself (RANK, WORLD_SIZE, ...) is refused."""
    env_file: EnvFile | None = None
    """A .deepspeed_env whose variables the ranks get."""


class FailurePolicy(ApiModel):
    """What follows a failed attempt."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts of a run in all: of ranks that fail in healthy pods, inside an attempt, and
    attempts after the first. Default 3. Can change at any time; an attempt that runs keeps what it
    was given."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Seconds between a failed attempt and the next, doubled with each restart up to ten minutes.
    Ranks inside an attempt are started again at once, from the second time on after this wait,
    doubled each time. Default 10. Can change at any time."""


class DeepSpeedJobSpec(ApiModel):
    """The wanted training run."""

    nodes: Annotated[int, Field(ge=1, le=1024)]
    """Worker nodes, one pod each. A change ends the attempt that runs; the next one continues from
    the newest checkpoint with the same global batch. Needs spec.storage."""
    gpus_per_node: Annotated[int, Field(ge=1, le=64, json_schema_extra=fixed("gpusPerNode"))] = 8
    """Ranks per node, each with one device (or none when accelerator.type is CPU). Default 8.
    Fixed at creation."""
    accelerator: Annotated[Accelerator, Field(json_schema_extra=fixed("accelerator"))] = (
        Accelerator()
    )
    """What the ranks compute on. Fixed at creation."""
    image: (
        Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=fixed("image"))]
        | None
    ) = None
    """Image of head and workers: any with Python, torch, DeepSpeed and Ray in the trainer's range,
    into which the trainer is injected. Default: the operator's trainer image. Fixed at creation."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When nodes pull the image, and that of the injected trainer. Default: Kubernetes' rule by
    tag. A change counts for the next RayCluster."""
    entrypoint: Entrypoint
    """What is run. Fixed at creation."""
    code: Annotated[Code, Field(json_schema_extra=fixed("code"))] | None = None
    """Where the program comes from. Default: it is in the image. Fixed at creation."""
    deepspeed: DeepSpeed = DeepSpeed()
    """The DeepSpeed configuration. A change counts for the next attempt."""
    storage: Annotated[Storage, Field(json_schema_extra=fixed("storage"))] | None = None
    """Shared storage; needed when nodes > 1. Fixed at creation."""
    checkpoint: Checkpoint = Checkpoint()
    """How checkpoints are used. A change counts for the next attempt."""
    failure_policy: FailurePolicy = FailurePolicy()
    """What follows a failed attempt."""
    hang: Hang = Hang()
    """When ranks that no longer move count as hung. A change counts for the next attempt."""
    preemption: Preemption = Preemption()
    """What happens when a pod is told to go. A change counts for the next attempt."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 0
    """Seconds that the RayCluster stays after the end, for looking around. Default 0. The
    DeepSpeedJob itself is never deleted. Can change at any time."""
    scheduling: Scheduling = Scheduling()
    """Where pods may run. A change counts for the next RayCluster."""
    head: Head = Head()
    """The head pod. A change counts for the next RayCluster."""
    worker: Worker = Worker()
    """The worker pods. A change counts for the next RayCluster."""
