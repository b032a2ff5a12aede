"""Progress: what the endpoint on the head answers, and the words for phases and causes.

Part of the wall between operator and trainer; import it from `contract`.  Every list and text has
a bound, because the reader copies it into a Kubernetes status and must not trust the writer.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from deepspeed_trainer.fields import ContractError, Fields, read_object

PROGRESS_VERSION: Final = 1
MAX_PROGRESS_BYTES: Final = 64 * 1024
MAX_METRICS: Final = 20
MAX_OVERRIDES: Final = 16
MAX_RESTARTS: Final = 100_000
MAX_RESTARTS_SHOWN: Final = 8
MAX_RESTART_CHARS: Final = 256
MAX_TAIL_LINES: Final = 20
MAX_TAIL_BYTES: Final = 4096
MAX_LINE_CHARS: Final = 1024
MAX_MESSAGE_CHARS: Final = 2048
MAX_PATH_CHARS: Final = 1024
MAX_UNIX_S: Final = 2.0**33
OLDER_RUNS: Final = "this run begins at step 0, though there are older ones of its name"
"""How a notice of that begins; it has two parts between semicolons."""
HEAD_POD: Final = "of the head"
"""What a preemption's failure has as `node` when it was the head that was told to go."""

DECIMAL: Final = r"-?(\d+(\.\d+)?([eE][+-]?\d+)?|inf|nan)"
SUBMISSION_ID: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


class RunPhase(StrEnum):
    """Where an attempt is."""

    STARTING = "Starting"
    """The driver runs and has not yet looked for ranks."""
    WAITING_FOR_RANKS = "WaitingForRanks"
    """Not every worker pod has joined the Ray cluster."""
    RUNNING = "Running"
    """The ranks were started."""
    RESTARTING = "Restarting"
    """A rank failed; all of them are started again, in the same pods."""
    FINISHING = "Finishing"
    """A rank has ended; checkpoints are being committed and the others are awaited."""
    SUCCEEDED = "Succeeded"
    """Every rank ended with exit code 0."""
    FAILED = "Failed"
    """`failure` says why."""


class Cause(StrEnum):
    """First cause of a failed attempt."""

    USER_ERROR = "UserError"
    """The program ended with an exit code other than 0, or raised."""
    SIGNAL = "Signal"
    """A signal ended a rank's process; the message names it."""
    OUT_OF_MEMORY = "OutOfMemory"
    """A rank ran out of memory, of the host or of its device."""
    IMPORT_FAILED = "ImportFailed"
    """The script, module or function cannot be found or imported; no retry can help."""
    NO_PROCESS_GROUP = "NoProcessGroup"
    """The program ended well but never made a process group: its ranks trained side by side."""
    WRONG_WORLD_SIZE = "WrongWorldSize"
    """The program made a process group that does not span the attempt's ranks."""
    PLACEMENT = "Placement"
    """The ranks do not lie on the wanted number of pods, or there on too few cores to be bound."""
    EARLY_EXIT = "EarlyExit"
    """A rank ended with exit code 0 while others went on stepping."""
    HANG = "Hang"
    """No rank moved for longer than its phase may last; the message names who is waited for."""
    RESUME_IGNORED = "ResumeIgnored"
    """The program took its first step without the checkpoint that it was to continue from."""
    WORLD_SIZE_CHANGED = "WorldSizeChanged"
    """The newest checkpoint was saved by another number of ranks and was not converted."""
    NO_SUCH_CHECKPOINT = "NoSuchCheckpoint"
    """What checkpoint.resume.from names is not there, or nothing of it can be continued from."""
    WRONG_BATCH_SIZE = "WrongBatchSize"
    """With another number of ranks the program's global batch is another than that it had saved."""
    RANKS_MISSING = "RanksMissing"
    """The worker pods did not join the Ray cluster in time."""
    POD_LOST = "PodLost"
    """A rank's supervisor died: its pod or node is gone, or the kernel killed it."""
    WRONG_HEAD = "WrongHead"
    """The driver runs on another head pod than the one it was submitted to."""
    STORAGE = "Storage"
    """The job's storage cannot be written or read."""
    SUPERSEDED = "Superseded"
    """A newer attempt of the run has begun on the storage; this one may write no more."""
    PREEMPTED = "Preempted"
    """A pod of the attempt was told to go; the message says what was saved before."""
    STOPPED = "Stopped"
    """The run was stopped from outside."""
    CONTRACT_INVALID = "ContractInvalid"
    """Operator and trainer do not speak the same contract."""
    TRAINER_ERROR = "TrainerError"
    """The trainer itself failed."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that the program reported; `value` is decimal text."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A committed checkpoint; `path` is below the storage's root, `time` in unix seconds."""

    step: int
    tag: str
    path: str
    time: float
    export: str | None = None
    """Where its weights were exported to, below the storage's root."""


@dataclass(frozen=True, slots=True)
class ResumedFrom:
    """The checkpoint that the ranks continued from, and the attempt that had saved it."""

    step: int
    path: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The first cause of a failed attempt; `node` is the rank's pod, a signal is negative."""

    cause: Cause
    message: str
    rank: int | None = None
    node: str | None = None
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restart:
    """Why the ranks were started again inside an attempt; `time` is that of the decision."""

    time: float
    cause: Cause
    message: str
    rank: int | None = None
    node: str | None = None
    step: int = 0
    """Optimizer steps that the rank had done, or rank 0 where no rank is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one attempt is. Step, loss and rate come from rank 0."""

    submission_id: str
    attempt: int
    phase: RunPhase = RunPhase.STARTING
    world_size: int = 0
    nodes: int = 0
    """Distinct pods that hold ranks."""
    step: int = 0
    """Optimizer steps done, those of the attempts before included."""
    total_steps: int | None = None
    epoch: int | None = None
    loss: str | None = None
    samples_per_second: str | None = None
    """Over all ranks."""
    metrics: tuple[Metric, ...] = ()
    checkpoint: SavedCheckpoint | None = None
    """The last committed one."""
    resumed_from: ResumedFrom | None = None
    first_step: int | None = None
    """First optimizer step that this attempt, or its last restart, did."""
    failure: Failure | None = None
    updated_at: float = 0.0
    """Unix seconds."""
    notice: str | None = None
    """What is missing, in one sentence; for instance that progress cannot be seen."""
    overrides: tuple[str, ...] = ()
    """Settings of a driver program that the job's replaced, a sentence each."""
    restarts: int = 0
    """How often the ranks were started again inside this attempt."""
    last_restarts: tuple[Restart, ...] = ()
    """The last eight of them, oldest first."""
    storage_full: str | None = None
    """Why the newest save was skipped for want of room; None again once one counts."""

    def to_json(self) -> str:
        """Return the endpoint's answer."""
        plain = _to_wire(self)
        plain["version"] = PROGRESS_VERSION
        return json.dumps(plain, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read an answer that may be hostile. Unknown fields are ignored.

        Raises:
            ContractError: naming the field that is missing or out of bounds.
        """
        fields = read_object(text, max_bytes=MAX_PROGRESS_BYTES, what="progress")
        refuse_version(fields, PROGRESS_VERSION, "progress")
        return cls(
            submission_id=fields.text("submissionId", max_chars=128, pattern=SUBMISSION_ID),
            attempt=fields.whole("attempt", low=1, high=100_000),
            phase=RunPhase(fields.choice("phase", tuple(RunPhase))),
            world_size=fields.whole("worldSize", high=65_536),
            nodes=fields.whole("nodes", high=65_536),
            step=fields.whole("step"),
            total_steps=fields.optional_whole("totalSteps"),
            epoch=fields.optional_whole("epoch"),
            loss=fields.optional_text("loss", max_chars=64, pattern=DECIMAL),
            samples_per_second=fields.optional_text(
                "samplesPerSecond", max_chars=64, pattern=DECIMAL
            ),
            metrics=_read_metrics(fields),
            checkpoint=_read_checkpoint(fields),
            resumed_from=_read_resumed_from(fields),
            first_step=fields.optional_whole("firstStep"),
            failure=_read_failure(fields),
            updated_at=fields.number("updatedAt", low=0, high=MAX_UNIX_S),
            notice=fields.optional_text("notice", max_chars=MAX_MESSAGE_CHARS),
            overrides=fields.texts("overrides", max_items=MAX_OVERRIDES, max_chars=MAX_LINE_CHARS),
            restarts=fields.whole("restarts", high=MAX_RESTARTS),
            last_restarts=_read_restarts(fields),
            storage_full=fields.optional_text("storageFull", max_chars=MAX_MESSAGE_CHARS),
        )


def refuse_version(fields: Fields, version: int, what: str) -> None:
    """Raise ContractError unless the document has the one version that this code speaks."""
    found = fields.take("version")
    if isinstance(found, bool) or found != version:
        raise ContractError(
            f"{what}.version is {str(found)[:20]}, this side speaks {version}; "
            "use an operator and a trainer image of the same release"
        )


def bound_tail(lines: list[str]) -> tuple[str, ...]:
    """Return the last lines that fit a Failure: at most 20 lines and 4 KiB."""
    kept: list[str] = []
    left = MAX_TAIL_BYTES
    for line in reversed(lines[-MAX_TAIL_LINES:]):
        cut = line[:MAX_LINE_CHARS]
        left -= len(cut.encode(errors="replace"))
        if left < 0:
            break
        kept.append(cut)
    return tuple(reversed(kept))


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _to_wire(value: Any) -> Any:
    """Return the JSON form: dataclasses become objects with camelCase names."""
    if hasattr(value, "__dataclass_fields__"):
        return {_camel(name): _to_wire(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, tuple):
        return [_to_wire(item) for item in value]
    return value


def _read_metrics(fields: Fields) -> tuple[Metric, ...]:
    sections = fields.sections("metrics", max_items=MAX_METRICS)
    metrics = tuple(
        Metric(
            section.text("name", max_chars=128, pattern=r".+"),
            section.text("value", max_chars=64, pattern=DECIMAL),
        )
        for section in sections
    )
    if len({metric.name for metric in metrics}) < len(metrics):
        raise fields.fail("metrics", "a list in which no name is twice")
    return metrics


def _read_checkpoint(fields: Fields) -> SavedCheckpoint | None:
    section = fields.optional_section("checkpoint")
    if section is None:
        return None
    return SavedCheckpoint(
        step=section.whole("step"),
        tag=section.text("tag", max_chars=255),
        path=section.text("path", max_chars=MAX_PATH_CHARS),
        time=section.number("time", low=0, high=MAX_UNIX_S),
        export=section.optional_text("export", max_chars=MAX_PATH_CHARS),
    )


def _read_resumed_from(fields: Fields) -> ResumedFrom | None:
    section = fields.optional_section("resumedFrom")
    if section is None:
        return None
    return ResumedFrom(
        step=section.whole("step"),
        path=section.text("path", max_chars=MAX_PATH_CHARS),
        attempt=section.whole("attempt", low=1, high=100_000),
    )


def _read_restarts(fields: Fields) -> tuple[Restart, ...]:
    return tuple(
        Restart(
            time=section.number("time", low=0, high=MAX_UNIX_S),
            cause=Cause(section.choice("cause", tuple(Cause))),
            message=section.text("message", max_chars=MAX_RESTART_CHARS),
            rank=section.optional_whole("rank", high=65_535),
            node=section.optional_text("node", max_chars=253),
            step=section.whole("step"),
        )
        for section in fields.sections("lastRestarts", max_items=MAX_RESTARTS_SHOWN)
    )


def _read_failure(fields: Fields) -> Failure | None:
    section = fields.optional_section("failure")
    if section is None:
        return None
    failure = Failure(
        cause=Cause(section.choice("cause", tuple(Cause))),
        message=section.text("message", max_chars=MAX_MESSAGE_CHARS),
        rank=section.optional_whole("rank", high=65_535),
        node=section.optional_text("node", max_chars=253),
        exit_code=section.optional_whole("exitCode", low=-1024, high=1024),
        log_tail=section.texts("logTail", max_items=MAX_TAIL_LINES, max_chars=MAX_LINE_CHARS),
    )
    if sum(len(line.encode(errors="replace")) for line in failure.log_tail) > MAX_TAIL_BYTES:
        raise section.fail("logTail", f"at most {MAX_TAIL_BYTES} bytes in all")
    return failure
