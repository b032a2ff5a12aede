"""One attempt as the head sees it: facts of ranks come in, orders and Progress go out. Pure.

Every decision about the ranks is here: may they start (are they placed as ordered), must they stop
(one failed, one left early), shall they start again (see `rounds`), may they go (all ended, all
complete saves committed).  Time enters as an argument, files and network are the board's business.
"""

from collections.abc import Mapping
from typing import Any, Final

from deepspeed_trainer.board.failures import find_early_exit
from deepspeed_trainer.board.figures import Figures
from deepspeed_trainer.board.judgement import find_failure, find_notice
from deepspeed_trainer.board.preemption import Preemption, Saved
from deepspeed_trainer.board.ranks import (
    Launch,
    Orders,
    Verdict,
    describe_launches,
    find_misplacement,
)
from deepspeed_trainer.board.resuming import Resuming, describe_ignored
from deepspeed_trainer.board.room import Room
from deepspeed_trainer.board.roster import Roster
from deepspeed_trainer.board.rounds import Rounds
from deepspeed_trainer.board.saves import OpenSaves, Save
from deepspeed_trainer.board.vigil import Vigil
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.progress import (
    MAX_LINE_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_OVERRIDES,
    Cause,
    Failure,
    Progress,
    ResumedFrom,
    RunPhase,
    SavedCheckpoint,
)

SETTLE_S: Final = 3.0
"""How long the others may end by themselves after a rank failed: their last words help."""
LOOK_EVERY_S: Final = 0.5
"""How often all ends are compared, however often ranks ask."""


class Attempt:
    """The state of one attempt; single-threaded."""

    def __init__(self, contract: RunContract, now: float) -> None:
        self.contract = contract
        self.phase = RunPhase.STARTING
        self.saves = OpenSaves(contract.world_size)
        self.resuming = Resuming(contract.world_size)
        self.preemption = Preemption(contract)
        self.checkpoint: SavedCheckpoint | None = None
        self.room = Room()
        self.versions: dict[str, str] = {}
        self._rounds = Rounds(contract)
        self._vigil = Vigil(contract)
        self._roster = Roster(contract.world_size)
        self._figures = Figures()
        self._resumed_from: ResumedFrom | None = None
        self._overrides: list[str] = []
        self._advice: str | None = None
        self._failure: Failure | None = None
        self._round_failure: Failure | None = None
        self._is_judged = False
        self._looked_at, self._has_verdict = float("-inf"), False
        self._launches: dict[int, Launch] = {}
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
            case "ignored":
                self.note_ignored(rank, fact)
            case "advice":
                self._advice = fact["message"]
            case "verdict":
                self.note_verdict(rank, Cause(fact["cause"]), fact["message"])
            case "beat" | "stack":
                self._vigil.take(rank, fact, now)
            case unknown:
                raise ValueError(f"rank {rank} sent a fact of unknown kind {unknown!r}")

    def note_hello(self, rank: int, hello: Mapping[str, Any], now: float) -> None:
        """A rank's supervisor is up; the last one to come completes the placement."""
        self._updated_at = now
        self._roster.add(rank, hello)
        self._vigil.note_hello(rank, hello["pod"])
        if self._roster.is_complete:
            self._make_launches()
            misplaced = find_misplacement(self.contract, self._roster.ranks)
            if misplaced is not None:
                self.fail(misplaced)

    @property
    def has_failed(self) -> bool:
        """Whether a reason is known why this attempt cannot go on."""
        return self._failure is not None

    @property
    def needs_resume(self) -> bool:
        """Whether all ranks are there and wait to be told what to continue from."""
        return self._roster.is_complete and self.resuming.chosen is None and self._failure is None

    def note_figures(self, rank: int, fact: Mapping[str, Any], now: float) -> bool:
        """Take a `step` fact; True when the rank did its first step of this attempt."""
        self._updated_at = now
        state = self._roster.ranks[rank]
        state.steps, state.begun = int(fact["done"]), int(fact["begun"])
        self.preemption.note_steps(rank, state.steps, now)
        first, is_new = fact.get("first"), state.first_step is None
        if first is not None and is_new:
            state.first_step = int(first)
        if rank == 0:
            self._figures.take_step(fact, state.first_step)
        return first is not None and is_new

    def note_metrics(self, rank: int, metrics: Mapping[str, str]) -> None:
        """Take figures that the program reported."""
        if rank == 0:
            self._figures.take_metrics(metrics)

    def note_engine(self, rank: int, fact: Mapping[str, Any]) -> None:
        """Take what is known once an engine exists."""
        if rank == 0:
            self._figures.total_steps = fact.get("total_steps")
            self.versions = dict(fact.get("versions") or {})

    def note_hook(self, rank: int, failure: str | None) -> None:
        """The hook is in place in a rank, or why it is not."""
        self._roster.ranks[rank].is_hooked = True
        self._roster.ranks[rank].hook_failure = failure or self._roster.ranks[rank].hook_failure

    def note_group(self, rank: int, size: int) -> None:
        """A rank made its process group; a wrong size ends the attempt."""
        state = self._roster.ranks[rank]
        state.group_size = size
        if size != self.contract.world_size and self.contract.distributed:
            self.note_verdict(
                rank,
                Cause.WRONG_WORLD_SIZE,
                f"the program made a process group of {size}, the job has "
                f"{self.contract.world_size} ranks",
            )

    def note_ignored(self, rank: int, fact: Mapping[str, Any]) -> None:
        """A rank began to train without the checkpoint that it was to continue from."""
        told = describe_ignored(fact["path"], fact["step"])
        if self.contract.on_ignored == "Fail":
            advice = ", or say spec.checkpoint.resume.onIgnored: Continue"
            self.note_verdict(rank, Cause.RESUME_IGNORED, told + advice)
        else:
            self.resuming.passed_over = told

    def note_verdict(self, rank: int, cause: Cause, message: str) -> None:
        """A rank's hook found a reason to end the attempt."""
        state, self._has_verdict = self._roster.ranks[rank], True
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
        self.room.note_committed(save.number)
        self.resuming.note_saved(save.unresizable)
        self.preemption.note_committed(save.number, now)

    def note_end(self, rank: int, end: Mapping[str, Any], now: float) -> None:
        """A rank's program ended; `end` are fields of RankEnd."""
        self._updated_at = now
        self._roster.end(rank, end, now)
        self._vigil.note_end(rank)
        if self.phase is RunPhase.RUNNING:
            self.phase = RunPhase.FINISHING

    def fail(self, failure: Failure) -> None:
        """End the attempt for a reason that no rank gave; the first such reason stays."""
        self._failure = self._failure or failure

    def note_lost(self, lost: Mapping[int, str], restart: int | None = None) -> None:
        """Workers of these ranks died without a word of their own; `restart` is their round."""
        if restart is None or restart == self.restarts:
            self._roster.lose(lost)

    def end_round(self, verdict: Verdict, now: float) -> float | None:
        """All workers have ended: return the seconds until they may start again, None for never.

        For ranks that are Ray's own workers; supervisors are told by their orders.
        """
        self.note_lost(verdict.lost)
        failure = self._failure or self._find_failure(verdict)
        if self._failure is not None or failure is None or not self._rounds.may_follow(failure):
            return None
        return self._begin_round(failure, now)

    def conclude(self, verdict: Verdict, now: float) -> None:
        """Everything has ended: find the cause."""
        self._updated_at = now
        self.note_lost(verdict.lost)
        self._failure = self._failure or self._find_failure(verdict)
        self.phase = RunPhase.FAILED if self._failure else RunPhase.SUCCEEDED

    # What goes out.

    @property
    def metrics(self) -> Mapping[str, str]:
        """What rank 0 has reported by now, decimal text by name."""
        return dict(self._figures.metrics)

    def orders(self, rank: int, now: float, restart: int | None = None) -> Orders:
        """Return what a rank shall do now; `restart` is the round that it is of."""
        if restart is not None and restart != self.restarts:
            is_worker = self.contract.entrypoint.kind.is_in_process
            return Orders(must_stop=is_worker, go_again=not is_worker)
        saved = Saved.of(self.checkpoint, self._resumed_from, is_pending=self.saves.is_waiting)
        self._failure = self._failure or self.preemption.look(self._roster.ranks, saved, now)
        if self._end_round_of_supervisors(now):
            return Orders(go_again=True)
        if (
            self._roster.is_complete and not self.preemption.is_on
        ):  # who waits for the end does not hang
            self._round_failure = self._round_failure or self._vigil.look(rank, now)
        must_stop = self._must_stop(now)
        return Orders(
            launch=None if must_stop else self._launch_when_ready(rank, now),
            must_stop=must_stop,
            may_leave=self._may_leave(rank),
            resume=self.resuming.chosen,
            upload=self.saves.choose_upload(),
            newest_save=self.saves.newest,
            dump=self._vigil.dump_for(rank),
            save=self.preemption.order,
        )

    def _launch_when_ready(self, rank: int, now: float) -> Launch | None:
        if not self.resuming.is_ready or now < self._rounds.due_at:
            return None
        if self.phase is RunPhase.RESTARTING:
            self.phase = RunPhase.RUNNING
        return self._launches.get(rank)

    @property
    def restarts(self) -> int:
        """How often the ranks were started again."""
        return self._rounds.number

    def progress(self) -> Progress:
        """Return what the endpoint shows."""
        return Progress(
            submission_id=self.contract.submission_id,
            attempt=self.contract.attempt,
            phase=self.phase,
            world_size=len(self._roster.ranks),
            nodes=len({state.pod_uid for state in self._roster.ranks.values()}),
            **self._figures.describe(),
            checkpoint=self.checkpoint,
            resumed_from=self._resumed_from,
            failure=self._failure,
            updated_at=self._updated_at,
            notice=self._notice(),
            overrides=tuple(self._overrides),
            restarts=self.restarts,
            last_restarts=tuple(self._rounds.last),
            storage_full=self.room.lack,
        )

    # How it is decided.

    def _make_launches(self) -> None:
        """All ranks of the round are there: say to each what it needs to know of the others."""
        if self.phase is not RunPhase.RESTARTING:
            self.phase = RunPhase.RUNNING
        per_node = self.contract.entrypoint.per == "Node"
        self._launches = describe_launches(self._roster.ranks, names_hosts=per_node)

    def _end_round_of_supervisors(self, now: float) -> bool:
        """Once all ranks of a round have ended, begin another one if that may be; True when so."""
        if self._failure is not None or self._is_judged or self.saves.is_waiting:
            return False
        is_in_process = self.contract.entrypoint.kind.is_in_process
        if is_in_process or not self._roster.has_ended:
            return False
        failure = self._find_failure(Verdict())
        self._is_judged = failure is None or not self._rounds.may_follow(failure)
        if failure is not None and not self._is_judged:
            self._begin_round(failure, now)
        return not self._is_judged

    def _begin_round(self, failure: Failure, now: float) -> float:
        """Forget what belongs to the round that ended; what it saved and did stays."""
        of_rank = self._roster.ranks.get(failure.rank or 0)
        wait_s = self._rounds.begin(failure, of_rank.steps if of_rank else 0, now)
        self._roster.begin_round()
        self._launches = {}
        self.saves = OpenSaves(self.contract.world_size)
        self.resuming.begin_round()
        self._vigil.restart()
        self.preemption.begin_round()
        self._round_failure = None
        self._looked_at, self._has_verdict = float("-inf"), False
        self._updated_at = now
        self.phase = RunPhase.RESTARTING
        return wait_s

    def _must_stop(self, now: float) -> bool:
        if (self._failure or self._round_failure) is not None or self._has_verdict:
            return True
        first_end_at = self._roster.first_end_at
        if first_end_at is None or now - first_end_at < SETTLE_S:
            return False
        if any(state.end and state.end.exit_code != 0 for state in self._roster.ranks.values()):
            return True
        if self.contract.distributed and now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._round_failure = find_early_exit(self._roster.ends())
        return self._round_failure is not None

    def _may_leave(self, rank: int) -> bool:
        end = self._roster.ranks[rank].end if rank in self._roster.ranks else None
        if end is None or self.saves.is_waiting:
            return False
        if self.contract.entrypoint.kind.is_in_process and end.exit_code != 0:
            return True  # the others cannot be stopped from outside; Ray ends them
        return all(state.end for state in self._roster.ranks.values())

    def _find_failure(self, verdict: Verdict) -> Failure | None:
        return self._round_failure or find_failure(self.contract, self._roster.ranks, verdict)

    def _notice(self) -> str | None:
        own = (self.preemption.notice, *self.resuming.notices, self._advice)
        told = (
            find_notice(self._roster.ranks),
            *own,
            self.saves.find_notice(),
            self._vigil.find_notice(),
        )
        return "; ".join(sentence for sentence in told if sentence)[:MAX_MESSAGE_CHARS] or None
