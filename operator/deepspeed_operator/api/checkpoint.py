"""Where checkpoints live, which of them stay, and how a new attempt uses them."""

from typing import Annotated, Literal

from pydantic import Field

from deepspeed_operator.api.schema import ApiModel, Name

ResumeMode = Literal["Auto", "Never", "From"]
RunOrCheckpoint = Annotated[
    str,
    Field(
        max_length=1024, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){3,}$"
    ),
]


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
    """Auto (default): from this run's newest verified checkpoint. Never: from the beginning. From:
    as Auto, and a run that has no checkpoint yet begins from another run's."""
    source: Annotated[RunOrCheckpoint | None, Field(alias="from")] = None
    """With mode From: another run's folder on the same storage, <namespace>/<name>/<uid>/<run>, for
    its newest checkpoint; or one checkpoint, as a job's status.checkpoint.path shows it. It is only
    read."""
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


class Export(ApiModel):
    """The newest checkpoint's weights for other programs, once the training has succeeded."""

    safetensors: Literal["BFloat16", "Float16", "Float32"]
    """Type of the weights. Files as Hugging Face's libraries read them: at most 5 GB each, with an
    index when there are several."""


class Checkpoint(ApiModel):
    """How checkpoints are used."""

    resume: Resume = Resume()
    """Where a new attempt starts."""
    on_world_size_change: Literal["Convert", "Fail"] = "Convert"
    """What follows when the newest checkpoint was saved by another number of ranks. Convert
    (default): it is converted once and continued from. Fail: the run fails and says so."""
    keep: Keep | None = None
    """Which checkpoints stay when newer ones are there. Default all of them."""
    export: Export | None = None
    """Whether the last checkpoint is exported when the training has succeeded. Default no. It takes
    a worker's memory: four bytes a parameter and the largest file once more."""
