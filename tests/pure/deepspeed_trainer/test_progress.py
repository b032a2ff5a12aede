"""Progress is read from a hostile head: nothing unbounded gets through."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepspeed_trainer.contract import (
    Cause,
    ContractError,
    Failure,
    Metric,
    Progress,
    Restart,
    ResumedFrom,
    RunPhase,
    SavedCheckpoint,
)
from deepspeed_trainer.progress import bound_tail

FULL = Progress(
    submission_id="bert-a2",
    attempt=2,
    phase=RunPhase.FAILED,
    world_size=16,
    nodes=2,
    step=40,
    total_steps=100,
    epoch=1,
    loss="nan",
    samples_per_second="12.5",
    metrics=(Metric("accuracy", "0.75"),),
    checkpoint=SavedCheckpoint(40, "step40", "team/bert/u/run-1/attempt-2/checkpoints/step40", 9.0),
    resumed_from=ResumedFrom(20, "team/bert/u/run-1/attempt-1/checkpoints/step20", 1),
    first_step=21,
    failure=Failure(Cause.SIGNAL, "killed by SIGKILL", 3, "pod-1", -9, ("last words",)),
    updated_at=10.5,
    notice="something",
    overrides=("FailureConfig.max_failures: 3 became 0",),
    restarts=9,
    last_restarts=(Restart(8.5, Cause.USER_ERROR, "ValueError: no", 3, "pod-1", 39),),
    storage_full="rank 1, no room for a.pt",
)


def test_progress_survives_the_wire() -> None:
    assert Progress.from_json(FULL.to_json()) == FULL


def test_the_first_answer_survives_the_wire() -> None:
    first = Progress(submission_id="a", attempt=1)
    assert Progress.from_json(first.to_json()) == first


def test_names_on_the_wire_are_those_of_the_contract() -> None:
    assert set(json.loads(FULL.to_json())) == {
        "version", "submissionId", "attempt", "phase", "worldSize", "nodes", "step", "totalSteps",
        "epoch", "loss", "samplesPerSecond", "metrics", "checkpoint", "resumedFrom", "firstStep",
        "failure", "updatedAt", "notice", "overrides", "restarts", "lastRestarts",
        "storageFull",
    }  # fmt: skip


HOSTILE: dict[str, tuple[list[Any], Any, str]] = {
    "restarts beyond any": (["restarts"], 10**9, "progress.restarts"),
    "too many restarts": (["lastRestarts"], [{}] * 9, "progress.lastRestarts"),
    "a restart for a reason of its own": (
        ["lastRestarts", 0, "cause"],
        "Hacked",
        r"lastRestarts\[0\].cause",
    ),
    "a phase of its own": (["phase"], "Hacked", "progress.phase"),
    "a step that is text": (["step"], "40", "progress.step"),
    "a step below zero": (["step"], -1, "progress.step"),
    "a step beyond any": (["step"], 10**30, "progress.step"),
    "a loss that is a program": (["loss"], "$(reboot)", "progress.loss"),
    "a loss without end": (["loss"], "9" * 100, "progress.loss"),
    "too many metrics": (
        ["metrics"],
        [{"name": str(i), "value": "1"} for i in range(21)],
        "metrics",
    ),
    "a metric twice": (["metrics"], [{"name": "a", "value": "1"}] * 2, "progress.metrics"),
    "a metric without a name": (["metrics"], [{"name": "", "value": "1"}], r"metrics\[0\].name"),
    "a metric's long name": (["metrics"], [{"name": "a" * 129, "value": "1"}], "name"),
    "a cause of its own": (["failure", "cause"], "Because", "progress.failure.cause"),
    "a long message": (["failure", "message"], "a" * 2049, "progress.failure.message"),
    "too many lines": (["failure", "logTail"], ["a"] * 21, "progress.failure.logTail"),
    "too long lines": (["failure", "logTail"], ["a" * 1024] * 5, "progress.failure.logTail"),
    "a lines' list of numbers": (["failure", "logTail"], [1], "progress.failure.logTail"),
    "a checkpoint that is a list": (["checkpoint"], [], "progress.checkpoint"),
    "a time that is infinite": (["updatedAt"], 1e308, "progress.updatedAt"),
    "another version": (["version"], 7, "progress.version is 7"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_answer_is_refused(case: str) -> None:
    path, value, wanted = HOSTILE[case]
    plain = json.loads(FULL.to_json())
    inner = plain
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ContractError, match=wanted):
        Progress.from_json(json.dumps(plain))


def test_a_huge_answer_is_refused_unread() -> None:
    with pytest.raises(ContractError, match="the limit is"):
        Progress.from_json(b" " * 70_000)


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(ContractError, match="progress"):
        Progress.from_json("[" * 60_000)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_no_bytes_raise_anything_else(noise: bytes | str) -> None:
    with suppress(ContractError):
        Progress.from_json(noise)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(json.loads(FULL.to_json()))), JSON)
def test_no_value_in_any_field_raises_anything_else(name: str, value: Any) -> None:
    plain = json.loads(FULL.to_json()) | {name: value}
    with suppress(ContractError):
        Progress.from_json(json.dumps(plain))


@given(st.lists(st.text(max_size=3000), max_size=60))
def test_a_bounded_tail_is_always_accepted(lines: list[str]) -> None:
    failure = Failure(Cause.USER_ERROR, "m", log_tail=bound_tail(lines))
    answer = Progress(submission_id="a", attempt=1, failure=failure).to_json()
    assert Progress.from_json(answer).failure == failure


def test_a_bounded_tail_keeps_the_last_lines() -> None:
    assert bound_tail([str(i) for i in range(100)])[-1] == "99"
    assert len(bound_tail([str(i) for i in range(100)])) == 20
