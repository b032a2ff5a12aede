"""Reading the text of faulthandler: where the training thread is, and whether anything moved.

Pure.  Threads of the trainer's own and of Ray are left out, because they never rest.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_THREAD: Final = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$')
_LIBRARY: Final = re.compile(
    r"/(site|dist)-packages/|/lib/python\d|^<frozen |/deepspeed_trainer/|^<string>"
)
_OURS: Final = re.compile(r"/deepspeed_trainer/|/ray/")
_COLLECTIVES: Final = "torch/distributed/distributed_c10d.py"
_WAIT: Final = "deepspeed_trainer/hooks/heartbeat.py"
_WIRE: Final = "deepspeed_trainer/hooks/wire.py"
_SOCKET: Final = re.compile(r"/lib/python[^/]*/socket\.py$")
_PLUMBING: Final = frozenset({"wait", "wrapper", "wrapped_fn", "log_wrapper", "_wait_for_all"})


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack."""

    file: str
    line: str
    function: str


@dataclass(frozen=True, slots=True)
class Where:
    """What the stacks say of a rank; see board.beats.Stack."""

    fingerprint: str
    place: str | None
    waits_in: str | None
    asks_supervisor: bool = False
    """Whether the rank waits for its supervisor, for instance to pin the files of a save."""


def read_where(text: str, thread: int) -> Where | None:
    """Return where a rank is; `thread` is the identity of the one that trains.

    None when that thread is not in the text.
    """
    threads = read_threads(text)
    training = threads.get(thread)
    if not training:
        return None
    others = [frames for ident, frames in threads.items() if ident != thread]
    watched = [training, *(frames for frames in others if not _is_ours(frames))]
    digest = hashlib.sha256(repr(watched).encode()).hexdigest()[:16]
    asks = next((f.file.endswith(_WIRE) for f in training if not _SOCKET.search(f.file)), False)
    return Where(digest, find_place(training), find_collective(training), asks)


def read_threads(text: str) -> dict[int, list[Frame]]:
    """Return the frames by thread, innermost first."""
    threads: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        head = _THREAD.match(line)
        if head is not None:
            frames = threads.setdefault(int(head[1], 16), [])
        elif (found := _FRAME.match(line)) is not None:
            frames.append(Frame(found[1], found[2], found[3]))
    return threads


def find_place(frames: Sequence[Frame]) -> str | None:
    """Return the innermost line that is in no library, `train.py:88`, or else the innermost."""
    own = [frame for frame in frames if not _LIBRARY.search(frame.file)]
    for frame in own or frames[:1]:
        return f"{frame.file.rsplit('/', 1)[-1]}:{frame.line}"
    return None


def find_collective(frames: Sequence[Frame]) -> str | None:
    """Return the collective that a stack waits in, or None when it does not wait for others."""
    in_call = bool(frames) and frames[0].file.endswith(_COLLECTIVES)
    if not in_call and not any(_is_wait(frame) for frame in frames):
        return None
    for frame in frames:
        if frame.file.endswith(_COLLECTIVES) and not frame.function.startswith("_"):
            return frame.function
    # An asynchronous one does not say which it was; who waits for it does.
    below = next((n for n, frame in enumerate(frames) if _is_wait(frame)), 0)
    for frame in frames[below:]:
        if frame.function not in _PLUMBING and not frame.function.startswith("<"):
            return f"a collective of {frame.function}"
    return "a collective"


def _is_wait(frame: Frame) -> bool:
    return frame.file.endswith(_WAIT) and frame.function == "wait"


def _is_ours(frames: Sequence[Frame]) -> bool:
    return any(_OURS.search(frame.file) for frame in frames)
