"""The one wall between operator and trainer: what crosses it, under which names, in which bounds.

The operator hands a RunContract to the driver in an environment variable, and reads a Progress
from the endpoint on the head.  Checkpoint manifests are here too, because a run outlives the image
that wrote them.  Pure and stdlib only.  The head runs the user's image, so whoever reads a Progress
must treat it as hostile: `from_json` checks every size and type.  Decimal figures cross as text,
because a Kubernetes status has no floats and JSON has no NaN.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from deepspeed_trainer.codeorder import (
    CODE_COMMAND,
    CODE_CONTAINER,
    CODE_DIR,
    CODE_ENV,
    CODE_SECRET_MOUNT,
    CODE_SOURCE_MOUNT,
    REFUSED,
    UNAVAILABLE,
    CodeFault,
    CodeOrder,
    CodeReport,
    FrozenCode,
)
from deepspeed_trainer.entrypoint import DataSource, Entrypoint, EntrypointKind
from deepspeed_trainer.fields import ContractError, Fields, read_object
from deepspeed_trainer.hangs import HangPolicy
from deepspeed_trainer.manifest import MANIFEST_FILE, Manifest, ManifestFile
from deepspeed_trainer.progress import (
    HEAD_POD,
    MAX_PROGRESS_BYTES,
    MAX_RESTARTS,
    OLDER_RUNS,
    Cause,
    Failure,
    Metric,
    Progress,
    Restart,
    ResumedFrom,
    RunPhase,
    SavedCheckpoint,
    refuse_version,
)
from deepspeed_trainer.remedies import FREE, REMEDIES, Remedy, derive_backoff_s

__all__ = [
    "CODE_COMMAND",
    "CODE_CONTAINER",
    "CODE_DIR",
    "CODE_ENV",
    "CODE_SECRET_MOUNT",
    "CODE_SOURCE_MOUNT",
    "FREE",
    "HEAD_POD",
    "MANIFEST_FILE",
    "MAX_PROGRESS_BYTES",
    "OLDER_RUNS",
    "REFUSED",
    "REMEDIES",
    "UNAVAILABLE",
    "Cause",
    "CodeFault",
    "CodeOrder",
    "CodeReport",
    "ContractError",
    "DataSource",
    "Entrypoint",
    "EntrypointKind",
    "Failure",
    "FrozenCode",
    "HangPolicy",
    "JobRef",
    "Keep",
    "Manifest",
    "ManifestFile",
    "Metric",
    "Progress",
    "Remedy",
    "Restart",
    "ResumedFrom",
    "RunContract",
    "RunPhase",
    "SavedCheckpoint",
    "attempt_dir",
    "attempt_path",
    "checkpoint_dir",
    "derive_backoff_s",
    "derive_exit_code",
    "run_dir",
    "run_path",
]

CONTRACT_VERSION: Final = 1
CONTRACT_ENV: Final = "DSJOB_CONTRACT"
"""Environment variable of the driver that holds RunContract.to_json()."""
DRIVER_COMMAND: Final = "python -m deepspeed_trainer.driver"
"""Entrypoint of the Ray job."""

PROGRESS_PORT: Final = 8267
PROGRESS_PATH: Final = "/v1/progress/{submission_id}"
"""GET on the head pod, `Authorization: Bearer <Ray's token>`: 200 with Progress, 401, 404."""
RANK_RESOURCE: Final = "dsjob_rank"
"""Custom Ray resource: a worker pod offers ranksPerNode of it, each rank takes one."""
STORAGE_MOUNT: Final = "/mnt/dsjob"
"""Where head and workers mount the job's claim."""
CODE_MOUNT: Final = "/mnt/code"
"""Where head and workers mount the job's code, when it is not in the image."""
TRAINER_MOUNT: Final = "/opt/dsjob"
"""Where the trainer lies in its own image, and where it is mounted when it is injected."""
EXIT_IMAGE_UNSUPPORTED: Final = 78
"""Exit code of a pod whose image the trainer cannot run in; enter.sh says why."""
BOARD_ACTOR: Final = "dsjob-board"
BOARD_NAMESPACE: Final = "dsjob"
"""Name and Ray namespace of the actor that holds the boards and serves them."""

POD_UID_ENV: Final = "POD_UID"
POD_NAME_ENV: Final = "POD_NAME"
"""Set in every pod by the downward API."""
DEEPSPEED_CONFIG_ENV: Final = "DSJOB_DEEPSPEED_CONFIG"
CHECKPOINT_DIR_ENV: Final = "DSJOB_CHECKPOINT_DIR"
ATTEMPT_ENV: Final = "DSJOB_ATTEMPT"
RESTART_ENV: Final = "DSJOB_RESTART"
RUN_ENV: Final = "DSJOB_RUN"
RESUMED_ENV: Final = "DSJOB_RESUMED"
MICRO_BATCH_ENV: Final = "DSJOB_MICRO_BATCH_SIZE"
ACCUMULATION_ENV: Final = "DSJOB_GRADIENT_ACCUMULATION_STEPS"
PREEMPTION_SIGNAL_ENV: Final = "DSJOB_PREEMPTION_SIGNAL"
"""What a user's program may read; it need not know any of them."""

LEAVE_COMMAND: Final = ("python", "-m", "deepspeed_trainer.leaving")
"""What a pod runs when it is told to go, before its containers are signalled."""
LEAVE_DIR_ENV: Final = "DSJOB_LEAVE_DIR"
"""A folder of the pod where that command and the ranks meet; without it no pod is told to go."""
LEAVE_GRACE_ENV: Final = "DSJOB_LEAVE_GRACE_S"
"""Seconds from being told to being killed."""
PREEMPTION_SIGNALS: Final = ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
"""Signals that a program may be sent to let it save."""
STACKS_DIR: Final = "stacks"
"""Below an attempt's folder: the stack dumps of its ranks."""
MAX_CONTRACT_BYTES: Final = 512 * 1024
DEADMAN_S: Final = 60
"""Seconds after which a rank that the head no longer reaches is gone."""

_DNS_NAME: Final = r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
_ID: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_STORAGE: Final = r"(/|(s3|gs|abfs|abfss)://)[^\x00]+"
_BELOW_ROOT: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){3,}"
_ENV_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"


EXIT_SUCCEEDED: Final = 0
EXIT_PROGRAM_FAILED: Final = 10
EXIT_CONTRACT_INVALID: Final = 11
EXIT_WRONG_HEAD: Final = 12
EXIT_NO_RANKS: Final = 13
EXIT_TRAINER_ERROR: Final = 14
EXIT_STOPPED: Final = 15


def derive_exit_code(cause: Cause) -> int:
    """Return the driver's exit code: what Ray's job status still tells when no board answers."""
    codes = {
        Cause.CONTRACT_INVALID: EXIT_CONTRACT_INVALID,
        Cause.WRONG_HEAD: EXIT_WRONG_HEAD,
        Cause.RANKS_MISSING: EXIT_NO_RANKS,
        Cause.PLACEMENT: EXIT_NO_RANKS,
        Cause.STORAGE: EXIT_TRAINER_ERROR,
        Cause.TRAINER_ERROR: EXIT_TRAINER_ERROR,
        Cause.STOPPED: EXIT_STOPPED,
    }
    return codes.get(cause, EXIT_PROGRAM_FAILED)


@dataclass(frozen=True, slots=True)
class JobRef:
    """The DeepSpeedJob that an attempt belongs to."""

    namespace: str
    name: str
    uid: str

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"namespace": self.namespace, "name": self.name, "uid": self.uid}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        job = cls(
            namespace=fields.text("namespace", max_chars=63, pattern=_DNS_NAME),
            name=fields.text("name", max_chars=253, pattern=_DNS_NAME),
            uid=fields.text("uid", max_chars=64, pattern=_ID),
        )
        fields.refuse_unknown()
        return job


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints stay when newer ones are there; nothing said keeps everything."""

    last: int | None = None
    """The newest so many."""
    best_metric: str | None = None
    """The one with the best value of this metric."""
    best_mode: str = "Min"
    """Whether the lowest (Min) or the highest (Max) value is best."""
    every: int | None = None
    """Those whose step is a multiple of this."""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        keep = cls(
            last=fields.optional_whole("last", low=1),
            best_metric=fields.optional_text("best_metric", max_chars=128),
            best_mode=fields.choice("best_mode", ("Min", "Max")),
            every=fields.optional_whole("every", low=1),
        )
        fields.refuse_unknown()
        return keep


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContract:
    """One attempt of a run, as the operator orders it."""

    job: JobRef
    run: str
    attempt: int
    submission_id: str
    nodes: int
    ranks_per_node: int
    accelerator: str
    """Value of DS_ACCELERATOR: cpu or cuda."""
    backend: str
    """torch.distributed backend: gloo or nccl."""
    cpus_per_rank: float
    gpus_per_rank: int
    entrypoint: Entrypoint
    deepspeed_config: Mapping[str, Any] | None = None
    storage: str | None = None
    """Absolute path of the shared volume, the same on every pod; or the URI of a bucket."""
    resume: str = "Auto"
    """Auto: from the run's newest good checkpoint. Never: from the beginning."""
    resume_from: str | None = None
    """Another run's folder, or a checkpoint's, below the storage's root: where a run begins that
    has no checkpoint of its own."""
    on_ignored: str = "Fail"
    """What follows when the program does not load what it was to continue from: Fail, Continue."""
    on_world_size_change: str = "Convert"
    """What follows when the newest checkpoint is of another number of ranks: Convert, Fail."""
    keep: Keep = Keep()
    """Which checkpoints stay."""
    export: str | None = None
    """In what the last checkpoint's weights are exported: Float32, BFloat16, Float16, or not."""
    head_pod_uid: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    distributed: bool = True
    """Whether the ranks must make a process group together."""
    ranks_timeout_s: int = 300
    """How long the driver waits for all worker pods to join."""
    stop_grace_s: int = 10
    """Seconds between SIGTERM and SIGKILL when ranks are stopped."""
    restarts_left: int = 0
    """How often the ranks may be started again inside this attempt."""
    backoff_s: int = 10
    """Seconds before the second of these restarts, doubled with each; the first does not wait."""
    deadman_s: int = DEADMAN_S
    """Seconds without a word from the head after which a supervisor kills its rank and ends."""
    bind_cores: bool = False
    """Whether each rank's process is bound to its share of the pod's cores."""
    hang: HangPolicy = field(default_factory=HangPolicy)
    preemption_signal: str = ""
    """The signal on which the program saves when a pod goes; empty for none."""
    version: int = CONTRACT_VERSION

    @property
    def volume(self) -> str | None:
        """Where the job's volume is mounted; None when its storage is a bucket, or none at all."""
        return self.storage if self.storage and self.storage.startswith("/") else None

    @property
    def world_size(self) -> int:
        """Ranks of the attempt."""
        return self.nodes * self.ranks_per_node

    def to_json(self) -> str:
        """Return the text for the environment variable."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        plain["job"] = self.job.to_wire()
        plain["entrypoint"] = self.entrypoint.to_wire()
        plain["keep"] = self.keep.to_wire()
        plain["hang"] = self.hang.to_wire()
        return json.dumps(plain, sort_keys=True, default=dict, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a contract.

        Raises:
            ContractError: naming the field that is missing, unknown or out of bounds.
        """
        fields = read_object(text, max_bytes=MAX_CONTRACT_BYTES, what="contract")
        refuse_version(fields, CONTRACT_VERSION, "contract")
        contract = cls(
            job=JobRef.from_fields(fields.section("job")),
            run=fields.text("run", max_chars=63, pattern=_DNS_NAME),
            attempt=fields.whole("attempt", low=1, high=100_000),
            submission_id=fields.text("submission_id", max_chars=128, pattern=_ID),
            nodes=fields.whole("nodes", low=1, high=1024),
            ranks_per_node=fields.whole("ranks_per_node", low=1, high=64),
            accelerator=fields.choice("accelerator", ("cpu", "cuda")),
            backend=fields.choice("backend", ("gloo", "nccl")),
            cpus_per_rank=fields.number("cpus_per_rank", low=0, high=1024),
            gpus_per_rank=fields.whole("gpus_per_rank", high=1),
            entrypoint=Entrypoint.from_fields(fields.section("entrypoint")),
            deepspeed_config=_optional_mapping(fields, "deepspeed_config"),
            storage=fields.optional_text("storage", max_chars=1024, pattern=_STORAGE),
            resume=fields.choice("resume", ("Auto", "Never")),
            resume_from=fields.optional_text("resume_from", max_chars=1024, pattern=_BELOW_ROOT),
            on_ignored=fields.choice("on_ignored", ("Fail", "Continue")),
            on_world_size_change=fields.choice("on_world_size_change", ("Convert", "Fail")),
            keep=Keep.from_fields(fields.section("keep")),
            export=fields.optional_text("export", max_chars=8, pattern="Float32|BFloat16|Float16"),
            head_pod_uid=fields.text("head_pod_uid", max_chars=64),
            env=_read_env(fields),
            distributed=fields.flag("distributed"),
            ranks_timeout_s=fields.whole("ranks_timeout_s", low=1, high=86_400),
            stop_grace_s=fields.whole("stop_grace_s", high=3600),
            restarts_left=fields.whole("restarts_left", high=MAX_RESTARTS),
            backoff_s=fields.whole("backoff_s", high=3600),
            deadman_s=fields.whole("deadman_s", low=1, high=3600),
            bind_cores=fields.flag("bind_cores"),
            hang=HangPolicy.from_fields(fields.section("hang")),
            preemption_signal=fields.choice("preemption_signal", ("", *PREEMPTION_SIGNALS)),
        )
        fields.refuse_unknown()
        return contract


def run_path(job: JobRef, run: str) -> str:
    """Return a run's folder below the storage's root: <namespace>/<name>/<uid>/<run>."""
    return f"{job.namespace}/{job.name}/{job.uid}/{run}"


def attempt_path(job: JobRef, run: str, attempt: int) -> str:
    """Return an attempt's folder below the storage's root."""
    return f"{run_path(job, run)}/attempt-{attempt}"


def run_dir(storage: str, job: JobRef, run: str) -> str:
    """Return the folder of a run: <storage>/<namespace>/<name>/<uid>/<run>."""
    return f"{storage.rstrip('/')}/{run_path(job, run)}"


def attempt_dir(storage: str, job: JobRef, run: str, attempt: int) -> str:
    """Return the folder below which one attempt writes."""
    return f"{storage.rstrip('/')}/{attempt_path(job, run, attempt)}"


def checkpoint_dir(storage: str, job: JobRef, run: str, attempt: int) -> str:
    """Return what a program of this attempt finds in DSJOB_CHECKPOINT_DIR."""
    return f"{attempt_dir(storage, job, run, attempt)}/checkpoints"


def _optional_mapping(fields: Fields, name: str) -> Mapping[str, Any] | None:
    return None if fields.take(name, None) is None else fields.mapping(name)


def _read_env(fields: Fields) -> Mapping[str, str]:
    env = fields.mapping("env")
    for name, value in env.items():
        if not re.fullmatch(_ENV_NAME, name) or not isinstance(value, str) or "\0" in value:
            raise fields.fail("env", f"a map of variable names to texts; {name!r} is not one")
    return env
