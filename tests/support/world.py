"""A world small enough to crash in anywhere: API server, KubeRay and head as plain values.

The line below which all is fake: nothing here proves how KubeRay or Ray behave (tests/cluster and
tests/node do).  It proves that the plans, carried out one write at a time with a crash after any
of them, lead to the same end and never hand a run over twice.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from deepspeed_operator.api.job import JobFacts
from deepspeed_operator.decide.actions import (
    Action,
    ApplyObject,
    DeleteCluster,
    EnsureToken,
    Plan,
    SubmitRun,
)
from deepspeed_operator.decide.observed import ClusterFacts, Observed, PodFacts, RunFacts, RunState
from deepspeed_operator.decide.reconcile import reconcile
from tests.support.builders import DEFAULTS, MET, NOON, JobBuilder, a_cluster, a_run, ready_pods


class Crashed(Exception):
    """The operator's process died right after a write."""


@dataclass
class World:
    """Everything that outlives the operator."""

    builder: JobBuilder
    outcomes: list[RunState]
    """How each handed-over run ends, in order; the last one repeats."""
    clusters: dict[str, ClusterFacts] = field(default_factory=dict)
    pods: tuple[PodFacts, ...] = ()
    runs: dict[str, RunState] = field(default_factory=dict)
    handed_over: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    writes: list[str] = field(default_factory=list)
    now: datetime = NOON
    version: int = 1

    @property
    def job(self) -> JobFacts:
        return self.builder.build()

    def observe(self) -> Observed:
        run: RunFacts | None = None
        attempts = self.job.status.get("attempts", [])
        if attempts and attempts[-1].get("headUid"):
            last = attempts[-1]
            head = next((p for p in self.pods if p.uid == last["headUid"]), None)
            if head is not None:
                state = self.runs.get(last["submissionId"], RunState.NOT_FOUND)
                run = a_run(last["submissionId"], head, state, step=5)
        return Observed(tuple(self.clusters.values()), self.pods, run, MET)

    def advance(self) -> None:
        """Let KubeRay and Ray do their part, and a second pass."""
        self.now += timedelta(seconds=1)
        for name in self.clusters:
            if not any(p.cluster == name for p in self.pods):
                self.pods += ready_pods(name)
        self.pods = tuple(p for p in self.pods if p.cluster in self.clusters)
        for submission, state in self.runs.items():
            if state is RunState.PENDING:
                self.runs[submission] = RunState.RUNNING
            elif state is RunState.RUNNING:
                number = self.handed_over.index(submission)
                self.runs[submission] = self.outcomes[min(number, len(self.outcomes) - 1)]

    def carry_out(self, plan: Plan, crash_after: int | None) -> None:
        """Do what act/ does, in its order; raise Crashed after the write with that number."""
        for action in plan.actions:
            self._do(action, crash_after)
        if plan.status is not None:
            self.builder = self.builder.with_status(plan.status)
            self._count("status", crash_after)

    def _do(self, action: Action, crash_after: int | None) -> None:
        match action:
            case EnsureToken(cluster):
                self.tokens.add(cluster)
                self._count(f"token {cluster}", crash_after)
            case ApplyObject(body):
                name = body["metadata"]["name"]
                assert name in self.tokens, "the token comes before its cluster"
                self.clusters.setdefault(name, a_cluster(name))
                self._count(f"cluster {name}", crash_after)
            case DeleteCluster(name, uid):
                if name in self.clusters and self.clusters[name].uid == uid:
                    del self.clusters[name]
                self._count(f"delete {name}", crash_after)
            case SubmitRun():
                if action.submission_id not in self.runs:
                    self.runs[action.submission_id] = RunState.PENDING
                    self.handed_over.append(action.submission_id)
                self._count(f"submit {action.submission_id}", crash_after)

    def _count(self, what: str, crash_after: int | None) -> None:
        self.writes.append(what)
        if crash_after is not None and len(self.writes) == crash_after:
            raise Crashed(what)


def live(world: World, *, crash_after: int | None = None, most_passes: int = 60) -> World:
    """Run passes until nothing is planned any more; a crash loses the rest of its pass."""
    quiet = 0
    for _ in range(most_passes):
        plan = reconcile(world.job, world.observe(), DEFAULTS, world.now)
        quiet = quiet + 1 if not plan.actions and plan.status is None else 0
        if quiet > 5:
            return world
        try:
            world.carry_out(plan, crash_after)
        except Crashed:
            crash_after = None
        world.advance()
    raise AssertionError(f"never came to rest: {world.writes[-10:]}")
