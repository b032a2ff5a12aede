"""One attempt as the head sees it: facts of ranks come in, orders and Progress go out. Pure.

Every decision about the ranks is here: may they start (are they placed as ordered), must they stop
(one failed, one left early), may they go (all ended, all complete saves committed).  Time enters as
an argument, files and network are the board's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from deepspeed_trainer.board.failures import (
    RankEnd,
    find_early_exit,
    find_first_failure,
    name_ranks,
)
from deepspeed_trainer.board.ranks import (
    Launch,
    Orders,
    RankState,
    Resume,
    Verdict,
    describe_launch,
    find_misplacement,
)
from deepspeed_trainer.board.saves import OpenSaves, Save
from deepspeed_trainer.board.vigil import Vigil
from deepspeed_trainer.contract import EntrypointKind, RunContract
from deepspeed_trainer.progress import (
    MAX_LINE_CHARS,
    MAX_METRICS,
    MAX_OVERRIDES,
    Cause,
    Failure,
    Metric,
    Progress,
    ResumedFrom,
    RunPhase,
    SavedCheckpoint,
)

SETTLE_S: Final = 3.0
"""How long the others may end by themselves after a rank failed: their last words help."""


@dataclass(slots=True)
class _Figures:
    """Rank 0's figures."""

    total_steps: int | None = None
    epoch: int | None = None
    loss: str | None = None
    samples_per_second: str | None = None
    metrics: dict[str, str] = field(default_factory=dict)


class Attempt:
    """The state of one attempt; single-threaded."""

    def __init__(self, contract: RunContract, now: float) -> None:
        self.contract = contract
        self.phase = RunPhase.STARTING
        self.saves = OpenSaves(contract.world_size)
        self.checkpoint: SavedCheckpoint | None = None
        self.versions: dict[str, str] = {}
        self._vigil = Vigil(contract)
        self._ranks: dict[int, RankState] = {}
        self._figures = _Figures()
        self._resumed_from: ResumedFrom | None = None
        self._overrides: list[str] = []
        self._failure: Failure | None = None
        self._first_end_at: float | None = None
        self._launches: dict[int, Launch] = {}
        self._resume: Resume | None = None
        self._prepared: set[int] = set()
        self._passed_over: str | None = None
        self._updated_at = now

    # What comes in.

    def take(self, rank: int, fact: Mapping[str, Any], now: float) -> None:
        """Take a fact that needs nothing but memory.

        Raises:
            ValueError: a fact of unknown kind; supervisor and board are not of one release.
        """
        match fact["kind"]:
            case "hello":
                self.note_hello(rank, fact, now)
            case "hook":
                self.note_hook(rank, fact.get("failure"))
            case "group":
                self.note_group(rank, int(fact["size"]))
            case "engine":
                self.note_engine(rank, fact)
            case "metrics":
                self.note_metrics(rank, fact["values"])
            case "verdict":
                self.note_verdict(rank, Cause(fact["cause"]), fact["message"])
            case "beat" | "stack":
                self._vigil.take(rank, fact, now)
            case unknown:
                raise ValueError(f"rank {rank} sent a fact of unknown kind {unknown!r}")

    def note_hello(self, rank: int, hello: Mapping[str, Any], now: float) -> None:
        """A rank's supervisor is up; the last one to come completes the placement."""
        self._updated_at = now
        self._ranks[rank] = RankState(
            hello["pod"], hello["pod_uid"], hello["address"], int(hello["port"])
        )
        self._vigil.note_hello(rank, hello["pod"])
        if self._is_complete:
            self.phase = RunPhase.RUNNING
            per_node = self.contract.entrypoint.per == "Node"
            self._launches = {
                rank: describe_launch(self._ranks, rank, names_hosts=per_node)
                for rank in self._ranks
            }
            misplaced = find_misplacement(self.contract, self._ranks)
            if misplaced is not None:
                self.fail(misplaced)

    @property
    def has_failed(self) -> bool:
        """Whether a reason is known why this attempt cannot go on."""
        return self._failure is not None

    @property
    def needs_resume(self) -> bool:
        """Whether all ranks are there and wait to be told what to continue from."""
        return self._is_complete and self._resume is None and self._failure is None

    def note_resume(self, resume: Resume, passed_over: str | None) -> None:
        """The checkpoint to continue from was chosen; `passed_over` says what was not taken."""
        self._resume, self._prepared = resume, set()
        self._passed_over = passed_over or self._passed_over

    def note_prepared(self, rank: int, number: int) -> None:
        """A rank has read its files of the chosen checkpoint, and they are what was saved."""
        if self._resume is not None and number == self._resume.number:
            self._prepared.add(rank)

    def note_damaged(self, number: int) -> bool:
        """A rank found damage; another must be chosen. False when that was known already."""
        if self._resume is None or number != self._resume.number:
            return False
        self._resume = None
        return True

    def note_figures(self, rank: int, fact: Mapping[str, Any], now: float) -> bool:
        """Take a `step` fact; True when the rank did its first step of this attempt."""
        self._updated_at = now
        state = self._ranks[rank]
        state.steps, state.begun = int(fact["done"]), int(fact["begun"])
        if rank == 0:
            self._figures.loss = fact.get("loss") or self._figures.loss
            self._figures.samples_per_second = fact.get("rate") or self._figures.samples_per_second
        first, is_new = fact.get("first"), state.first_step is None
        if first is not None and is_new:
            state.first_step = int(first)
            return True
        return False

    def note_metrics(self, rank: int, metrics: Mapping[str, str]) -> None:
        """Take figures that the program reported; the newest twenty names are kept."""
        if rank != 0:
            return
        kept = self._figures.metrics
        for name, value in metrics.items():
            kept.pop(name, None)
            kept[name] = value
            if name.rsplit("/", 1)[-1].lower() == "epoch":
                self._figures.epoch = _to_whole(value)
        while len(kept) > MAX_METRICS:
            del kept[next(iter(kept))]

    def note_engine(self, rank: int, fact: Mapping[str, Any]) -> None:
        """Take what is known once an engine exists."""
        if rank == 0:
            self._figures.total_steps = fact.get("total_steps")
            self.versions = dict(fact.get("versions") or {})

    def note_hook(self, rank: int, failure: str | None) -> None:
        """The hook is in place in a rank, or why it is not."""
        self._ranks[rank].is_hooked = True
        self._ranks[rank].hook_failure = failure or self._ranks[rank].hook_failure

    def note_group(self, rank: int, size: int) -> None:
        """A rank made its process group; a wrong size ends the attempt."""
        state = self._ranks[rank]
        state.group_size = size
        if size != self.contract.world_size and self.contract.distributed:
            self.note_verdict(
                rank,
                Cause.WRONG_WORLD_SIZE,
                f"the program made a process group of {size}, the job has "
                f"{self.contract.world_size} ranks",
            )

    def note_verdict(self, rank: int, cause: Cause, message: str) -> None:
        """A rank's hook found a reason to end the attempt."""
        state = self._ranks[rank]
        state.verdict, state.verdict_message = state.verdict or cause, message

    def note_loaded(self, rank: int, source: ResumedFrom) -> None:
        """A rank's load of a checkpoint returned."""
        if rank == 0:
            self._resumed_from = source

    def note_override(self, sentence: str) -> None:
        """A driver program's setting was replaced by the job's."""
        if sentence not in self._overrides and len(self._overrides) < MAX_OVERRIDES:
            self._overrides.append(sentence[:MAX_LINE_CHARS])

    def note_committed(self, save: Save, now: float) -> None:
        """A save counts from now on."""
        self.checkpoint = SavedCheckpoint(save.step, save.tag, save.path, now)

    def note_end(self, rank: int, end: Mapping[str, Any], now: float) -> None:
        """A rank's program ended; `end` are fields of RankEnd."""
        state = self._ranks[rank]
        self._updated_at = now
        self._first_end_at = self._first_end_at or now
        state.end = self._describe_end(rank, state, **end)
        self._vigil.note_end(rank)
        if self.phase is RunPhase.RUNNING:
            self.phase = RunPhase.FINISHING

    def fail(self, failure: Failure) -> None:
        """End the attempt for a reason that no rank gave; the first such reason stays."""
        self._failure = self._failure or failure

    def note_lost(self, lost: Mapping[int, str]) -> None:
        """Workers of these ranks died without a word of their own."""
        for rank, why in lost.items():
            state = self._ranks.get(rank)
            if state is not None and state.end is None:
                state.verdict_message = state.verdict_message or why
                state.end = self._describe_end(rank, state, exit_code=1, lost=True)

    def conclude(self, verdict: Verdict, now: float) -> None:
        """Everything has ended: find the cause."""
        self._updated_at = now
        self.note_lost(verdict.lost)
        if self._failure is None:
            self._failure = self._find_failure(verdict)
        self.phase = RunPhase.FAILED if self._failure else RunPhase.SUCCEEDED

    # What goes out.

    @property
    def metrics(self) -> Mapping[str, str]:
        """What rank 0 has reported by now, decimal text by name."""
        return dict(self._figures.metrics)

    def orders(self, rank: int, now: float) -> Orders:
        """Return what a rank shall do now."""
        hang = self._vigil.look(rank, now) if self._is_complete else None
        if hang is not None:
            self.fail(hang)
        must_stop = self._must_stop(now)
        is_ready = self._resume is not None and len(self._prepared) == self.contract.world_size
        return Orders(
            launch=self._launches.get(rank) if is_ready and not must_stop else None,
            must_stop=must_stop,
            may_leave=self._may_leave(rank),
            resume=self._resume,
            upload=self.saves.upload,
            newest_save=self.saves.newest,
            dump=self._vigil.dump_for(rank),
        )

    def progress(self) -> Progress:
        """Return what the endpoint shows."""
        figures = self._figures
        first = self._ranks.get(0)
        return Progress(
            submission_id=self.contract.submission_id,
            attempt=self.contract.attempt,
            phase=self.phase,
            world_size=len(self._ranks),
            nodes=len({state.pod_uid for state in self._ranks.values()}),
            step=first.steps if first else 0,
            total_steps=figures.total_steps,
            epoch=figures.epoch,
            loss=figures.loss,
            samples_per_second=figures.samples_per_second,
            metrics=tuple(Metric(name, value) for name, value in figures.metrics.items()),
            checkpoint=self.checkpoint,
            resumed_from=self._resumed_from,
            first_step=first.first_step if first else None,
            failure=self._failure,
            updated_at=self._updated_at,
            notice="; ".join(filter(None, (self._notice(), self._vigil.find_notice()))) or None,
            overrides=tuple(self._overrides),
        )

    # How it is decided.

    @property
    def _is_complete(self) -> bool:
        return len(self._ranks) == self.contract.world_size

    def _ends(self) -> list[RankEnd]:
        """All ranks as ends; one that still runs counts as an end without a word."""
        return [
            state.end or self._describe_end(rank, state, exit_code=0, lost=True)
            for rank, state in self._ranks.items()
        ]

    def _describe_end(self, rank: int, state: RankState, **end: Any) -> RankEnd:
        ended = sum(1 for other in self._ranks.values() if other.end)
        return RankEnd(
            rank=rank,
            node=state.pod,
            order=ended,
            verdict=state.verdict,
            verdict_message=state.verdict_message,
            steps=state.steps,
            begun=state.begun,
            **end,
        )

    def _must_stop(self, now: float) -> bool:
        if self._failure is not None or any(state.verdict for state in self._ranks.values()):
            return True
        if self._first_end_at is None or now - self._first_end_at < SETTLE_S:
            return False
        ended = [state.end for state in self._ranks.values() if state.end]
        if any(end.exit_code != 0 for end in ended):
            return True
        early = find_early_exit(self._ends()) if self.contract.distributed else None
        if early is not None:
            self.fail(early)
        return early is not None

    def _may_leave(self, rank: int) -> bool:
        end = self._ranks[rank].end if rank in self._ranks else None
        if end is None or self.saves.is_waiting:
            return False
        if self.contract.entrypoint.kind.is_in_process and end.exit_code != 0:
            return True  # the others cannot be stopped from outside; Ray ends them
        return all(state.end for state in self._ranks.values())

    def _find_failure(self, verdict: Verdict) -> Failure | None:
        ends = [state.end for state in self._ranks.values() if state.end]
        failure = find_first_failure(ends, distributed=self.contract.distributed)
        if failure is not None or verdict.program is not None:
            return failure or verdict.program
        if verdict.error is not None:
            return Failure(Cause.TRAINER_ERROR, verdict.error[:2048])
        if not self._ranks and self.contract.entrypoint.kind is EntrypointKind.DRIVER:
            return _no_trainer() if self.contract.distributed else None
        if not self._is_complete or len(ends) < self.contract.world_size:
            return Failure(Cause.TRAINER_ERROR, "Ray Train returned before all ranks had ended")
        return self._find_missing_group()

    def _find_missing_group(self) -> Failure | None:
        if not self.contract.distributed:
            return None
        # Only of a command is it known that its hook would have spoken up.
        speaks_up = self.contract.entrypoint.kind is EntrypointKind.COMMAND
        for rank, state in sorted(self._ranks.items()):
            was_seen = state.is_hooked or speaks_up
            if state.group_size is None and was_seen and state.hook_failure is None:
                message = (
                    f"rank {rank} ended with exit code 0 and never made a process group: "
                    "the ranks did not train together; call deepspeed.initialize or "
                    "deepspeed.init_distributed, or say entrypoint.distributed: false"
                )
                return Failure(Cause.NO_PROCESS_GROUP, message, rank, state.pod, 0)
        return None

    def _notice(self) -> str | None:
        broken = {
            rank: state.hook_failure or "the program runs without the trainer's hook"
            for rank, state in self._ranks.items()
            if state.hook_failure or (state.end and not state.is_hooked)
        }
        if not broken:
            return self._passed_over
        return f"progress unavailable on {name_ranks(list(broken))}: {next(iter(broken.values()))}"


def _no_trainer() -> Failure:
    message = (
        "the driver program ended with exit code 0 and never ran a TorchTrainer: nothing was"
        " trained; call fit(), use another entrypoint, or say entrypoint.distributed: false"
    )
    return Failure(Cause.NO_PROCESS_GROUP, message, exit_code=0)


def _to_whole(value: str) -> int | None:
    try:
        return max(0, int(float(value)))
    except (ValueError, OverflowError):
        return None
