"""The status of a DeepSpeedJob: what the operator knows, and all that its restart needs.

Bounded: nothing in it grows with the length of a run.  Figures with a fraction are text, because
an API object holds no floats.
"""

from typing import Annotated, Literal

from pydantic import Field

from deepspeed_operator.api.names import Phase
from deepspeed_operator.api.schema import ATOMIC, ApiModel, Time, listed_by

MAX_ATTEMPTS_SHOWN = 10

AttemptState = Literal["Opened", "Submitting", "Running", "Succeeded", "Failed"]
ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """One fact about the job, with the moment at which it last turned."""

    type: Annotated[str, Field(max_length=64)]
    """Name of the fact."""
    status: ConditionStatus
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=64)]
    """Why, in one word."""
    message: Annotated[str, Field(max_length=2048)]
    """Why, and what to do about it."""
    last_transition_time: Time
    """When status last changed."""
    observed_generation: int | None = None
    """Generation of the spec that this was decided from."""


class Metric(ApiModel):
    """One figure that the program reported."""

    name: Annotated[str, Field(max_length=128)]
    """Name, as the program wrote it."""
    value: Annotated[str, Field(max_length=64)]
    """Value in decimal."""


class ProgressStatus(ApiModel):
    """How far the run is. All figures come from rank 0."""

    step: int = 0
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps in all, when the program's scheduler says."""
    epoch: int | None = None
    """Epoch, when the program says."""
    loss: Annotated[str, Field(max_length=64)] | None = None
    """Last loss."""
    samples_per_second: Annotated[str, Field(max_length=64)] | None = None
    """Samples per second over all ranks."""
    metrics: Annotated[list[Metric], Field(max_length=20, json_schema_extra=listed_by("name"))] = []
    """Figures that the program reported, for instance accuracy."""
    notice: Annotated[str, Field(max_length=2048)] | None = None
    """What a user should know of a run that goes on: why a newer checkpoint was passed over, which
    pod is slow by itself, or why progress cannot be seen."""
    updated_at: Time | None = None
    """When this was written; at most twice a minute while the run goes on."""


class CheckpointStatus(ApiModel):
    """The last committed checkpoint."""

    step: int
    """Optimizer step that it holds."""
    path: Annotated[str, Field(max_length=1024)]
    """Folder below the storage's root."""
    time: Time
    """When it was committed."""
    export: Annotated[str, Field(max_length=1024)] | None = None
    """Folder of its exported weights, below the storage's root."""


class Failure(ApiModel):
    """The first cause of the last failure."""

    cause: Annotated[str, Field(max_length=64)]
    """Cause in one word."""
    message: Annotated[str, Field(max_length=2048)]
    """What happened."""
    rank: int | None = None
    """Rank that failed first."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Pod of that rank."""
    exit_code: int | None = None
    """Its exit code; negative for a signal."""
    log_tail: Annotated[
        list[Annotated[str, Field(max_length=1024)]], Field(max_length=20, json_schema_extra=ATOMIC)
    ] = []
    """Its last lines."""


class Attempt(ApiModel):
    """One try to run the program."""

    number: int
    """1 for the first."""
    state: AttemptState
    """Where it is."""
    nodes: int | None = None
    """Worker nodes that it was opened with; spec.nodes counts for the next one."""
    cluster: Annotated[str, Field(max_length=63)]
    """RayCluster that it runs on."""
    submission_id: Annotated[str, Field(max_length=128)]
    """Id of the Ray job."""
    head_uid: Annotated[str, Field(max_length=64)] | None = None
    """UID of the head pod that it was submitted to."""
    start_time: Time
    """When it was opened."""
    finish_time: Time | None = None
    """When it ended."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that its ranks last continued from."""
    first_step: int | None = None
    """First optimizer step that its ranks did since they last started."""
    restarts: int = 0
    """How often its ranks were started again while their pods were healthy."""
    cause: Annotated[str, Field(max_length=64)] | None = None
    """Why it failed."""


class ClusterStatus(ApiModel):
    """The RayCluster in use."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the RayCluster."""
    head: Annotated[str, Field(max_length=253)] | None = None
    """Name of its head pod."""
    ready_workers: int = 0
    """Worker pods that are ready."""


class RunCode(ApiModel):
    """The code of all attempts of a run: a copy that nothing done to its source changes."""

    commit: Annotated[str, Field(max_length=64)] | None = None
    """Commit that git's ref meant when the run began."""
    sha256: Annotated[str, Field(max_length=64)]
    """Checksum of the copy."""
    path: Annotated[str, Field(max_length=1024)]
    """The copy, a tar file, below the storage's root."""


class RunStatus(ApiModel):
    """The run: all attempts that share one lineage of checkpoints."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the run."""
    nodes: int | None = None
    """Worker nodes of its first attempt. The global batch that the DeepSpeed configuration makes
    with them is kept when spec.nodes changes."""
    storage_path: Annotated[str, Field(max_length=1024)] | None = None
    """Its folder below the storage's root."""
    code: RunCode | None = None
    """Its code, when it comes from git, an archive or a ConfigMap."""
    overrides: Annotated[
        list[Annotated[str, Field(max_length=1024)]], Field(max_length=16, json_schema_extra=ATOMIC)
    ] = []
    """Settings of a driver program that gave way to the job's, a sentence each."""


class DeepSpeedJobStatus(ApiModel):
    """What the operator knows. Everything that a restart of the operator needs is here."""

    observed_generation: int | None = None
    """Generation of the spec that this status belongs to."""
    phase: Phase | None = None
    """One word for people. Programs read the conditions."""
    conditions: Annotated[
        list[Condition], Field(max_length=16, json_schema_extra=listed_by("type"))
    ] = []
    """Facts about the job; wait for Finished, Complete or Failed."""
    start_time: Time | None = None
    """When the first attempt was opened."""
    finish_time: Time | None = None
    """When the job reached its end."""
    run: RunStatus | None = None
    """The run."""
    attempts: Annotated[
        list[Attempt],
        Field(max_length=MAX_ATTEMPTS_SHOWN, json_schema_extra=listed_by("number")),
    ] = []
    """The last attempts, oldest first."""
    restarts: int = 0
    """All restarts of the run: of ranks inside an attempt, and attempts opened after the first."""
    cluster: ClusterStatus | None = None
    """The RayCluster in use."""
    world_size: int | None = None
    """Ranks of the attempt."""
    pull_failing_since: Time | None = None
    """When an image pull of the open attempt was first seen to fail."""
    progress: ProgressStatus | None = None
    """How far the run is."""
    checkpoint: CheckpointStatus | None = None
    """The last committed checkpoint."""
    failure: Failure | None = None
    """The first cause of the last failure, also of one that ranks were started again after."""
