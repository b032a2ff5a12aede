"""A job taken through passes of the chain, up to the state that a test starts from."""

from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.decide.actions import Plan
from deepspeed_operator.decide.observed import Observed, RunState
from deepspeed_operator.decide.reconcile import reconcile
from tests.support.builders import (
    DEFAULTS,
    JobBuilder,
    a_cluster,
    a_run,
    after,
    observed,
    ready_pods,
)


def decide(job: JobBuilder, facts: Observed, seconds: float = 0) -> Plan:
    """One pass at this many seconds after the job was made."""
    return reconcile(job.build(), facts, DEFAULTS, after(seconds))


def status_of(plan: Plan) -> DeepSpeedJobStatus:
    """The status that a plan writes."""
    assert plan.status is not None, plan.sentence
    return plan.status


def condition(status: DeepSpeedJobStatus, kind: str) -> tuple[str, str]:
    """The status and reason of a condition."""
    found = next(c for c in status.conditions if c.type == kind)
    return found.status, found.reason


def opened(job: JobBuilder) -> JobBuilder:
    """The job after its first pass: an attempt is recorded, nothing is made."""
    return job.with_status(decide(job, observed()).status)


def cluster_name(job: JobBuilder) -> str:
    """The cluster that the last attempt names."""
    name: str = job.build().status["attempts"][-1]["cluster"]
    return name


def submitting(job: JobBuilder) -> tuple[JobBuilder, Observed]:
    """The job with its pods ready and the hand-over recorded, not done."""
    job = opened(job)
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=ready_pods(name))
    return job.with_status(decide(job, facts).status), facts


def running(job: JobBuilder, step: int | None = None) -> tuple[JobBuilder, Observed]:
    """The job while its run steps."""
    job, facts = submitting(job)
    facts = with_run(job, facts, RunState.RUNNING, step=step)
    return job.with_status(decide(job, facts).status), facts


def with_run(job: JobBuilder, facts: Observed, state: RunState, **more: object) -> Observed:
    """The same facts with the last attempt's run in this state."""
    last = job.build().status["attempts"][-1]
    run = a_run(last["submissionId"], facts.pods[0], state, **more)  # type: ignore[arg-type]
    return observed(clusters=facts.clusters, pods=facts.pods, run=run)
