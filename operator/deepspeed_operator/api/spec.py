"""The spec of a DeepSpeedJob: what users ask for, field by field.

Each field says default, unit and whether it can change.  Rules between fields are in rules.py; what
only the operator can know (is the ConfigMap there?) is decided in decide/.
"""

from typing import Annotated, Literal

from pydantic import Field

from deepspeed_operator.api.hang import Hang
from deepspeed_operator.api.schema import (
    ATOMIC,
    ApiModel,
    IntOrString,
    RawObject,
    fixed,
    listed_by,
)

Name = Annotated[str, Field(min_length=1, max_length=253)]
Quantity = Annotated[IntOrString, Field()]

AcceleratorType = Literal["Nvidia", "CPU"]
ResumeMode = Literal["Auto", "Never"]


class Accelerator(ApiModel):
    """What the ranks compute on."""

    type: AcceleratorType = "Nvidia"
    """Kind of device. Default Nvidia. CPU asks for no device and trains with gloo."""
    resource_name: Annotated[str, Field(max_length=253)] | None = None
    """Extended resource of the device. Default by type, nvidia.com/gpu for Nvidia."""


class DataSource(ApiModel):
    """Files that Ray Data reads, which the function gets as ray.train.get_dataset_shard(name)."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the data set."""
    format: Literal["Csv", "Json", "Parquet", "Text"]
    """Format of the files; Json is one object a line, or a list."""
    paths: Annotated[
        list[Annotated[str, Field(max_length=1024, pattern=r"^/[^\x00]*$")]],
        Field(min_length=1, max_length=64, json_schema_extra=ATOMIC),
    ]
    """Files or folders, absolute, the same on all pods: in the image, the code or the storage."""


class Entrypoint(ApiModel):
    """What is run: exactly one of script, module, command, function and driver."""

    script: (
        Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=fixed("script"))]
        | None
    ) = None
    """Python file, relative to the working directory or absolute. One process per rank, started as
    the deepspeed launcher starts it (--local_rank, environment), unmodified."""
    module: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
                json_schema_extra=fixed("module"),
            ),
        ]
        | None
    ) = None
    """Python module, started like a script, by python -m."""
    command: (
        Annotated[
            list[Annotated[str, Field(max_length=2048)]],
            Field(min_length=1, max_length=128, json_schema_extra={**ATOMIC, **fixed("command")}),
        ]
        | None
    ) = None
    """Any program and its arguments, started once per rank with a rank's environment, or once per
    node (see per). It is given no argument beyond these; the DeepSpeed configuration is at
    $(DSJOB_DEEPSPEED_CONFIG)."""
    per: Annotated[Literal["Rank", "Node"], Field(json_schema_extra=fixed("per"))] = "Rank"
    """Where a command runs. Rank (default): in every rank. Node: once on every node, where it
    starts the ranks through deepspeed, torchrun, accelerate launch or mpirun; these start what
    belongs to the job and refuse what contradicts it. Fixed at creation."""
    function: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
                json_schema_extra=fixed("function"),
            ),
        ]
        | None
    ) = None
    """Importable train loop as package.module:function, called in each rank's process."""
    driver: (
        Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=fixed("driver"))]
        | None
    ) = None
    """Python file that makes its own TorchTrainer, run once on the head. What its RunConfig leaves
    open is filled in; every setting that gives way to the job's is told in status.run.overrides."""
    args: Annotated[
        list[Annotated[str, Field(max_length=2048)]],
        Field(max_length=128, json_schema_extra={**ATOMIC, **fixed("args")}),
    ] = []
    """Arguments of script, module or driver. Default none. In these, as in command, $(NAME) stands
    for an environment variable of the process."""
    config: RawObject | None = None
    """The function's argument, when it takes one."""
    data: Annotated[
        list[DataSource],
        Field(max_length=16, json_schema_extra={**listed_by("name"), **fixed("data")}),
    ] = []
    """What a function trains from by Ray Data; every set is split over the ranks. Default none.
    Fixed at creation."""
    local_rank_arg: Annotated[bool, Field(json_schema_extra=fixed("localRankArg"))] = True
    """Whether script and module are given --local_rank=N. Default true. Fixed at creation."""
    distributed: Annotated[bool, Field(json_schema_extra=fixed("distributed"))] = True
    """Whether the ranks have to make a process group of all ranks and to end together; a run in
    which they do not fails. Default true. Fixed at creation."""
    sizing: Annotated[Literal["Job", "Program"], Field(json_schema_extra=fixed("sizing"))] = "Job"
    """Whose size a driver's ScalingConfig gets. Job (default): nodes x gpusPerNode and the job's
    accelerator replace its own. Program: it is kept, and refused if it is not the job's. Fixed at
    creation."""
    working_dir: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^/[^\x00]*$",
                json_schema_extra=fixed("workingDir"),
            ),
        ]
        | None
    ) = None
    """Working directory of the program, absolute. Default: where code is mounted, else the image's.
    Fixed at creation."""


class CodeVolume(ApiModel):
    """A folder of a claim."""

    claim: Name
    """Name of a PersistentVolumeClaim in the job's namespace that all nodes can mount."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^([^/.][^/]*(/[^/.][^/]*)*)?$")] = ""
    """Folder in it, relative. Default the whole volume."""


class CodeConfigMap(ApiModel):
    """A ConfigMap whose keys are files."""

    name: Name
    """Name of a ConfigMap in the job's namespace."""


class Code(ApiModel):
    """Where the program comes from when the image does not hold it: exactly one source.

    It is mounted read-only at /mnt/code, which then is the default working directory.
    """

    config_map: CodeConfigMap | None = None
    """Files of a ConfigMap, executable."""
    volume: CodeVolume | None = None
    """A folder of a claim."""


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


class SecretRef(ApiModel):
    """A Secret in the job's namespace."""

    name: Name
    """Name of the Secret."""


class Storage(ApiModel):
    """Where checkpoints live: a volume or a bucket, shared by all nodes, outlives the cluster.

    A volume also holds the logs of all attempts.
    """

    volume_claim: Name | None = None
    """Name of a PersistentVolumeClaim in the job's namespace; ReadWriteMany when nodes > 1."""
    uri: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^(s3|gs|abfs|abfss)://[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9.-]+)?(/[^?#\s]*)?$",
            ),
        ]
        | None
    ) = None
    """A bucket, and a folder in it: s3://bucket/folder, gs://bucket/folder or
    abfs://container@account.dfs.core.windows.net/folder. What programs save is uploaded while they
    go on."""
    secret_ref: SecretRef | None = None
    """Secret whose keys become environment variables of head and workers: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_SERVICE_ACCOUNT_KEY;
    AZURE_STORAGE_ACCOUNT_KEY. Default: the platform's workload identity."""


class Resume(ApiModel):
    """Where a new attempt starts."""

    mode: ResumeMode = "Auto"
    """Auto (default): from this run's newest verified checkpoint. Never: from the beginning."""
    on_ignored: Literal["Fail", "Continue"] = "Fail"
    """What follows when the program begins to train without the checkpoint. Fail (default): the run
    fails before more is lost. Continue: it trains on from the beginning, with a notice."""


class Best(ApiModel):
    """The checkpoint with the best value of a metric."""

    metric: Annotated[str, Field(min_length=1, max_length=128)]
    """Name of a metric that the program reports, as status.progress.metrics shows it."""
    mode: Literal["Min", "Max"] = "Min"
    """Whether the lowest (Min, the default) or the highest (Max) value is best."""


class Keep(ApiModel):
    """Which checkpoints stay.

    The newest one, and the one that the running attempt continued from, are never deleted; nor is
    anything that this run did not commit.
    """

    last: Annotated[int, Field(ge=1, le=10000)]
    """The newest so many."""
    best: Best | None = None
    """Also the best one. Default none."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Also those whose step is a multiple of this. Default none."""


class Checkpoint(ApiModel):
    """How checkpoints are used."""

    resume: Resume = Resume()
    """Where a new attempt starts."""
    keep: Keep | None = None
    """Which checkpoints stay when newer ones are there. Default all of them."""


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


class Scheduling(ApiModel):
    """Where pods may run."""

    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)
    ] = {}
    """Labels that a worker's node must have. Default none."""
    lost_node_toleration_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that a pod stays bound to a node that is not ready or cannot be reached.
    Default 30; Kubernetes' own default would be 300."""


class Resources(ApiModel):
    """Compute resources of one pod. Limits equal requests for memory; CPU has no limit."""

    cpu: Quantity | None = None
    """CPU request of the pod."""
    memory: Quantity | None = None
    """Memory request and limit of the pod, shared memory included."""


class Head(ApiModel):
    """The head pod: it runs the driver and serves progress, and never does training work."""

    resources: Resources = Resources()
    """Default 1 CPU and 4Gi."""


class Worker(ApiModel):
    """The worker pods: one per node, each with gpusPerNode ranks."""

    resources: Resources = Resources()
    """Default per rank by accelerator: Nvidia 8 CPU and 64Gi, CPU 1 CPU and 3Gi."""
    bind_cores: bool = False
    """Whether every rank is bound to its share of the cores that its pod may use. Default false. A
    change counts for the next attempt."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, counted in the pod's memory. Default a quarter of the memory."""


class DeepSpeedJobSpec(ApiModel):
    """The wanted training run."""

    nodes: Annotated[int, Field(ge=1, le=1024, json_schema_extra=fixed("nodes"))]
    """Worker nodes, one pod each. Fixed at creation."""
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
    """Image of head and workers: the trainer image or one built on it. Default: the operator's
    trainer image. Fixed at creation."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When nodes pull the image. Default: Kubernetes' rule by tag. A change counts for the next
    RayCluster."""
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
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 0
    """Seconds that the RayCluster stays after the end, for looking around. Default 0. The
    DeepSpeedJob itself is never deleted. Can change at any time."""
    scheduling: Scheduling = Scheduling()
    """Where pods may run. A change counts for the next RayCluster."""
    head: Head = Head()
    """The head pod. A change counts for the next RayCluster."""
    worker: Worker = Worker()
    """The worker pods. A change counts for the next RayCluster."""
