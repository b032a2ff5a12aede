"""From the ends of all ranks to the one first cause. Pure.

When one rank dies the others soon fail too, in the collective that they wait in.  Those are
consequences: they are counted, never named as the cause, also when they were seen first.  Reading
a program's last lines is guesswork, so a signal and a verdict of the hook weigh more than text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepspeed_trainer.progress import MAX_MESSAGE_CHARS, Cause, Failure, bound_tail

_SIGNALS: Final = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS",
    8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM",
}  # fmt: skip

_COLLECTIVE_BROKE: Final = re.compile(
    r"gloo[/.]|Connection closed by peer|Connection reset by peer|Broken pipe|ncclRemoteError"
    r"|ncclSystemError|ncclInternalError|NCCL (communicator|error)|ProcessGroupNCCL"
    r"|DistBackendError|DistNetworkError|DistStoreError|recvValue failed|sendBytes failed"
    r"|ProcessGroupGloo|Application timeout caused pair closure"
)
_OUT_OF_MEMORY: Final = re.compile(
    r"OutOfMemoryError|CUDA out of memory|can't allocate memory|^MemoryError|Cannot allocate memory"
)
_NOT_FOUND: Final = re.compile(
    r"^(ModuleNotFoundError|ImportError)\b|can't open file|can't find '__main__'"
    r"|^\S*python\S*: (No module named|Error while finding module)|^cannot start '"
)
_RANK_PREFIX: Final = re.compile(r"^\[rank\d+\]:\s?")
_SPANS_SHOWN: Final = 16
_TRACEBACK: Final = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnd:
    """How one rank ended; `exit_code` is negative for a signal, `order` counts the ends seen."""

    rank: int
    node: str
    exit_code: int
    order: int
    stopped: bool = False
    """Ended by the trainer's own signal."""
    lost: bool = False
    """The supervisor itself is gone, and with it what the rank said last."""
    oom_kills: int = 0
    """Processes of the pod that the kernel killed for memory while the rank ran."""
    verdict: Cause | None = None
    """What the rank's hook found, with its sentence in `verdict_message`."""
    verdict_message: str = ""
    steps: int = 0
    """Optimizer steps done."""
    begun: int = 0
    """Optimizer steps begun."""
    tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one end says, and whether it may only be the effect of another rank's end."""

    end: RankEnd
    cause: Cause
    message: str
    is_consequence: bool = False


def find_first_failure(ends: Sequence[RankEnd], *, distributed: bool = True) -> Failure | None:
    """Return the first cause, or None when every rank ended well and no hook objected.

    Ranks that are not `distributed` may end when they like.
    """
    bad = [_read(end) for end in ends if end.exit_code != 0 or end.lost or end.verdict]
    if not bad:
        return None
    own = [reading for reading in bad if not reading.is_consequence]
    early = find_early_exit(ends) if distributed and not own else None
    if early is not None:
        return early
    first = min(own or bad, key=_weight)
    return _to_failure(first, bad)


def find_early_exit(ends: Sequence[RankEnd]) -> Failure | None:
    """Return the failure of a rank that ended well while others had begun further steps."""
    done = [end for end in ends if end.exit_code == 0 and not end.lost]
    if not done:
        return None
    first = min(done, key=lambda end: (end.steps, end.order))
    ahead = sorted(end.rank for end in ends if end.begun > first.steps)
    if not ahead:
        return None
    message = (
        f"rank {first.rank} ended with exit code 0 after step {first.steps} while "
        f"{name_ranks(ahead)} went on; all ranks must take the same number of steps"
    )
    return Failure(
        cause=Cause.EARLY_EXIT,
        message=message,
        rank=first.rank,
        node=first.node,
        exit_code=0,
        log_tail=bound_tail(list(first.tail)),
    )


def describe_program_end(exit_code: int, tail: Sequence[str], oom_kills: int) -> Failure:
    """Return the failure of a driver program, which is no rank and runs on the head."""
    end = RankEnd(
        rank=0, node="", exit_code=exit_code, order=0, oom_kills=oom_kills, tail=tuple(tail)
    )
    reading = _read(end)
    return Failure(
        cause=reading.cause,
        message=f"the driver program on the head: {reading.message}"[:MAX_MESSAGE_CHARS],
        exit_code=exit_code,
        log_tail=bound_tail(list(tail)),
    )


def name_ranks(ranks: Sequence[int]) -> str:
    """Return ranks for people: `rank 3`, `ranks 0, 2-5`; of many spans the first few."""
    spans: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in spans[:_SPANS_SHOWN]]
    if more := sum(high - low + 1 for low, high in spans[_SPANS_SHOWN:]):
        texts[-1] += f" and {more} more"
    return f"rank{'s' if len(set(ranks)) > 1 else ''} {', '.join(texts)}"


def last_exception(tail: Sequence[str]) -> str | None:
    """Return the line that names the last uncaught Python exception, without torch's prefix."""
    lines = [_RANK_PREFIX.sub("", line) for line in tail]
    starts = [index for index, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if not starts:
        return None
    for line in lines[starts[-1] + 1 :]:
        if line and not line[0].isspace():
            return line.strip()
    return None


def _weight(reading: _Reading) -> tuple[bool, bool, int]:
    """Sort key: a hook's verdict, then what speaks for itself, then the order of arrival."""
    return (reading.end.verdict is None, reading.is_consequence, reading.end.order)


def _read(end: RankEnd) -> _Reading:
    if end.verdict is not None:
        return _Reading(end, end.verdict, end.verdict_message)
    if end.lost:
        return _Reading(end, Cause.POD_LOST, end.verdict_message or "the rank's supervisor is gone")
    if end.stopped:
        return _Reading(end, Cause.STOPPED, "stopped by the trainer", is_consequence=True)
    if end.exit_code < 0:
        return _read_signal(end)
    return _read_text(end)


def _read_signal(end: RankEnd) -> _Reading:
    name = _SIGNALS.get(-end.exit_code, f"signal {-end.exit_code}")
    if end.exit_code == -9 and end.oom_kills:
        message = "killed by the kernel: the pod ran out of memory; raise worker.resources.memory"
        return _Reading(end, Cause.OUT_OF_MEMORY, message)
    # gloo and NCCL end a process by abort() when a peer is gone; the text says so.
    broke = end.exit_code == -6 and _any_line(_COLLECTIVE_BROKE, end.tail)
    return _Reading(end, Cause.SIGNAL, f"killed by {name}", is_consequence=broke)


def _read_text(end: RankEnd) -> _Reading:
    exception = last_exception(end.tail)
    text = exception or next((line for line in reversed(end.tail) if line.strip()), "")
    message = exception or f"exit code {end.exit_code}"
    if _OUT_OF_MEMORY.search(text):
        return _Reading(end, Cause.OUT_OF_MEMORY, message)
    if _NOT_FOUND.search(text):
        return _Reading(end, Cause.IMPORT_FAILED, text.strip())
    return _Reading(end, Cause.USER_ERROR, message, is_consequence=_is_collective(exception, end))


def _is_collective(exception: str | None, end: RankEnd) -> bool:
    if exception is not None:
        return bool(_COLLECTIVE_BROKE.search(exception))
    return _any_line(_COLLECTIVE_BROKE, end.tail)


def _any_line(pattern: re.Pattern[str], tail: Sequence[str]) -> bool:
    return any(pattern.search(line) for line in tail)


def _to_failure(first: _Reading, bad: Sequence[_Reading]) -> Failure:
    end = first.end
    others = [reading.end.rank for reading in bad if reading is not first]
    message = f"rank {end.rank} on {end.node}: {first.message}"
    if others:
        message += f" ({name_ranks(others)} failed after it)"
    return Failure(
        cause=first.cause,
        message=message[:MAX_MESSAGE_CHARS],
        rank=end.rank,
        node=end.node,
        exit_code=None if end.lost else end.exit_code,
        log_tail=bound_tail(list(end.tail)),
    )
