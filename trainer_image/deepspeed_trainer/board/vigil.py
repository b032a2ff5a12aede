"""What is read from the ranks' heartbeats: hangs, ranks that are slow by themselves, and silence.

Pure.  The one door of the attempt to the watchdog and to the straggler's figures.
"""

from collections.abc import Mapping
from typing import Any, Final

from deepspeed_trainer.board.beats import Beat, DumpOrder, Stack
from deepspeed_trainer.board.failures import name_ranks
from deepspeed_trainer.board.straggler import Count, StragglerWatch
from deepspeed_trainer.board.watchdog import Watchdog
from deepspeed_trainer.contract import STACKS_DIR, RunContract, attempt_path
from deepspeed_trainer.progress import MAX_MESSAGE_CHARS, Cause, Failure

FACTS: Final = frozenset({"beat", "stack"})


class Vigil:
    """Keeps an eye on the ranks of one attempt."""

    def __init__(self, contract: RunContract) -> None:
        self._contract = contract
        self._watchdog = Watchdog(contract.hang, contract.world_size)
        self._stragglers = StragglerWatch(contract.world_size)
        self._pods: dict[int, str] = {}
        self._started_at: float | None = None

    def restart(self) -> None:
        """Forget the ranks: they start anew."""
        self._watchdog.restart()
        self._stragglers.restart()
        self._started_at = None

    def note_hello(self, rank: int, pod: str) -> None:
        """A rank is there, in this pod."""
        self._pods[rank] = pod

    def note_end(self, rank: int) -> None:
        """A rank's program has ended."""
        self._watchdog.note_end(rank)

    def take(self, rank: int, fact: Mapping[str, Any], now: float) -> None:
        """Take a heartbeat or a stack dump."""
        if fact["kind"] == "beat":
            beat = Beat.from_fact(fact)
            self._watchdog.note_beat(rank, beat, now)
            count = Count(beat.steps, beat.own_s)
            # One rank's heartbeats are as good as any to look at all by.
            self._stragglers.note(rank, count, now, self._pods, looks=rank == 0)
        else:
            self._watchdog.note_stack(rank, fact["number"], Stack(**fact["stack"]))

    def look(self, rank: int, now: float) -> Failure | None:
        """Return the failure of an attempt that is hung; `rank` has asked for orders."""
        if self._started_at is None:
            self._started_at = now
        self._watchdog.note_heard(rank, now)
        hang = self._watchdog.look(now)
        if hang is None:
            return None
        message = f"{hang.message}; {self._say_where_stacks_are()}"[:MAX_MESSAGE_CHARS]
        return Failure(Cause.HANG, message, hang.rank, self._pods.get(hang.rank))

    def dump_for(self, rank: int) -> DumpOrder | None:
        """Return the stack dump that a rank shall take."""
        return self._watchdog.dump_for(rank)

    def find_notice(self) -> str | None:
        """Return what people should know of the ranks, in one sentence."""
        slow = self._stragglers.slow
        return slow.sentence if slow else self._find_silence()

    def _find_silence(self) -> str | None:
        """Say that nothing is seen of ranks that have had the time to start."""
        watchdog, limit_s = self._watchdog, self._contract.hang.start_deadline_s
        silent = watchdog.silent_ranks()
        if self._started_at is None or watchdog.last_look - self._started_at < limit_s:
            return None
        if not silent:
            return None
        return (
            f"progress unavailable on {name_ranks(silent)}: no DeepSpeed engine was seen at work in"
            f" the first {limit_s} s; a hang of these ranks would not be found"
        )

    def _say_where_stacks_are(self) -> str:
        contract = self._contract
        if contract.storage is None:
            return "the job has no storage: the stacks are in the workers' logs"
        folder = attempt_path(contract.job, contract.run, contract.attempt)
        return f"stacks of all ranks: {folder}/{STACKS_DIR} on the job's storage"
