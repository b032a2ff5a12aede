"""A pod is told to go: all ranks save after one step that the head named, and nothing is lost.

The hook of the pod is run as the kubelet would run it, by hand.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.contract import Cause, Entrypoint, EntrypointKind, Failure, RunPhase
from tests.trainer.attempts import CONFIG, Job, Outcome
from tests.trainer.raycluster import RayCluster, wait_until

PROGRAM = "told_to_go.py"
OWN_SCHEDULE = {name: part for name, part in CONFIG.items() if name != "scheduler"}
"""Transformers' Trainer brings its own."""


@pytest.fixture(autouse=True)
def stay(cluster: RayCluster) -> Iterator[None]:
    """No pod is told to go before or after the test."""
    cluster.keep_pods()
    yield
    cluster.keep_pods()


def run_and_tell(
    job: Job, *args: str, pod: str = "worker-b", grace_s: int = 60, **fields: Any
) -> Outcome:
    """Train, tell a pod to go, and wait until its hook has let it."""
    contract = job.contract(1, PROGRAM, *args, **fields)
    driver = job.start(contract)

    def has_trained() -> bool:
        if driver.poll() is not None:
            raise AssertionError(driver.communicate()[0])
        answer = job.cluster.progress_of(contract.submission_id)
        return bool(answer["step"] >= 6)

    wait_until(lambda: _is_known(job, contract.submission_id) and has_trained(), "no steps")
    job.cluster.tell(pod, grace_s)
    return job.finish(contract, driver)


def _is_known(job: Job, submission_id: str) -> bool:
    try:
        job.cluster.progress_of(submission_id)
    except OSError:
        return False
    return True


def preempted(outcome: Outcome, pod: str = "worker-b") -> Failure:
    failure = outcome.progress.failure
    assert failure is not None, outcome.log
    assert failure.cause is Cause.PREEMPTED, failure.message
    assert failure.message.startswith(f"pod {pod} was told to go; "), failure.message
    return failure


def assert_saved_at_one_step(outcome: Outcome, pod: str = "worker-b") -> int:
    """All ranks saved after the same step, it counts, and nothing came after it."""
    failure = preempted(outcome, pod)
    checkpoint = outcome.progress.checkpoint
    assert checkpoint is not None, failure.message
    step = checkpoint.step
    assert failure.message.endswith(
        f"; all ranks saved at step {step} and stopped; no step is lost"
    ), failure.message
    assert outcome.progress.step == step, "no rank went on"
    assert [line["step"] for line in outcome.of_kind("committed")][-1] == step
    return step


def assert_goes_on(job: Job, step: int, *args: str, **fields: Any) -> None:
    """The next attempt begins with the step after the save."""
    job.cluster.keep_pods()
    outcome = job.run(2, PROGRAM, *args, f"--steps={step + 3}", **fields)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert {line["step"] for line in outcome.of_kind("firstStep")} == {step + 1}
    assert outcome.progress.step == step + 3


@pytest.mark.parametrize(("how", "fields"), [
    ("trainer", {"deepspeed_config": OWN_SCHEDULE}),
    ("signal", {"preemption_signal": "SIGUSR1"}),
    ("loop", {}),
])  # fmt: skip
def test_all_ranks_save_after_one_step_and_nothing_is_lost(
    cluster: RayCluster, storage: Path, how: str, fields: dict[str, Any]
) -> None:
    job = Job(cluster, storage, **fields)
    outcome = run_and_tell(job, f"--how={how}")
    step = assert_saved_at_one_step(outcome)
    if how != "signal":  # such a program ends by itself
        assert sorted((line["rank"], line["step"]) for line in outcome.of_kind("held")) == [
            (0, step),
            (1, step),
        ]
    assert_goes_on(job, step, f"--how={how}")


def test_a_function_that_uses_the_helper_saves_too(cluster: RayCluster, storage: Path) -> None:
    def entrypoint(steps: int) -> Entrypoint:
        return Entrypoint(EntrypointKind.FUNCTION, "told_to_go:in_worker", config={"steps": steps})

    job = Job(cluster, storage)
    step = assert_saved_at_one_step(run_and_tell(job, entrypoint=entrypoint(100_000)))
    cluster.keep_pods()
    outcome = job.run(2, PROGRAM, entrypoint=entrypoint(step + 3))
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert {line["step"] for line in outcome.of_kind("firstStep")} == {step + 1}


def test_the_pod_of_the_head_may_be_the_one_that_goes(cluster: RayCluster, storage: Path) -> None:
    outcome = run_and_tell(Job(cluster, storage), pod="head")
    assert_saved_at_one_step(outcome, pod="of the head")


def test_a_program_without_a_saver_is_told_so_and_ends_at_once(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = run_and_tell(Job(cluster, storage), "--how=plain", "--save-every=5")
    message = preempted(outcome).message
    assert "no save was started: not supported by the program on ranks 0-1" in message
    assert "done again, since the checkpoint of step " in message or "no step is lost" in message


def test_no_save_is_started_that_takes_longer_than_the_grace(
    cluster: RayCluster, storage: Path
) -> None:
    outcome = run_and_tell(
        Job(cluster, storage, preemption_signal="SIGUSR1"),
        *("--how=signal", "--save-every=5", "--save-s=4"),
        grace_s=6,
    )
    assert "no save was started: the last one took" in preempted(outcome).message
    assert not outcome.of_kind("held")
