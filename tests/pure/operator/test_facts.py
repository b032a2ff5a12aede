"""Raw objects become facts: each row is what the API server sends and what decisions read."""

from datetime import UTC, datetime
from typing import Any

import pytest

from deepspeed_operator.api import names
from deepspeed_operator.api.job import JobKey
from deepspeed_operator.decide.observed import Exit, PodFacts, Waiting
from deepspeed_operator.watch.facts import read_cluster, read_job, read_owner, read_pod
from deepspeed_trainer.codeorder import MAX_FAULT_CHARS
from deepspeed_trainer.contract import CODE_CONTAINER, REFUSED, CodeFault, CodeReport, FrozenCode
from tests.support.raw import JOB_UID, raw_cluster, raw_job, raw_pod


def pod_with(**status: Any) -> PodFacts:
    pod = read_pod(raw_pod(status=status))
    assert pod is not None
    return pod


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def terminated(code: int, reason: str) -> dict[str, Any]:
    return {"state": {"terminated": {"exitCode": code, "reason": reason}}}


RUNNING = {"state": {"running": {"startedAt": "2026-01-01T12:00:00Z"}}}


def test_a_job_keeps_its_spec_and_status_raw() -> None:
    job = read_job(raw_job(status={"phase": "Running"}))
    assert job.key == JobKey("team-a", "demo")
    assert (job.uid, job.generation, job.resource_version) == (JOB_UID, 1, "10")
    assert job.spec["nodes"] == 1
    assert job.status == {"phase": "Running"}
    assert not job.deleting


def test_a_job_without_a_status_has_an_empty_one() -> None:
    assert read_job(raw_job()).status == {}


@pytest.mark.parametrize("read", [read_job, read_cluster, read_pod])
def test_deletion_is_seen(read: Any) -> None:
    raw = {read_job: raw_job, read_cluster: raw_cluster, read_pod: raw_pod}[read]()
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert read(raw).deleting


def test_a_child_names_its_job_and_the_jobs_uid() -> None:
    assert read_owner(raw_cluster()) == (JobKey("team-a", "demo"), JOB_UID)


@pytest.mark.parametrize("missing", [names.JOB_LABEL, names.JOB_UID_LABEL])
def test_a_child_without_a_label_of_ours_is_nobodys(missing: str) -> None:
    raw = raw_cluster()
    del raw["metadata"]["labels"][missing]
    assert read_owner(raw) is None


def test_a_cluster_tells_its_age_and_no_failure() -> None:
    cluster = read_cluster(raw_cluster())
    assert cluster.created == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert cluster.failure_message is None


@pytest.mark.parametrize(("status", "message"), [("True", "quota exceeded"), ("False", None)])
def test_kuberays_failure_counts_while_it_holds(status: str, message: str | None) -> None:
    failure = {"type": "ReplicaFailure", "status": status, "message": "quota exceeded"}
    raw = {**raw_cluster(), "status": {"conditions": [failure]}}
    assert read_cluster(raw).failure_message == message


def test_a_ready_pod_tells_where_it_is() -> None:
    pod = pod_with(
        phase="Running", podIP="10.0.0.7", conditions=[{"type": "Ready", "status": "True"}]
    )
    assert (pod.cluster, pod.role, pod.phase) == ("demo-1", "head", "Running")
    assert (pod.ready, pod.ip, pod.node) == (True, "10.0.0.7", "node-1")
    assert (pod.waiting, pod.exit, pod.unschedulable) == (None, None, None)


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_pod_is_ready_only_when_the_kubelet_says_true(status: str) -> None:
    assert not pod_with(conditions=[{"type": "Ready", "status": status}]).ready


def test_a_pod_that_nobody_reported_on_yet_is_pending() -> None:
    pod = read_pod({**raw_pod(), "status": {}, "spec": {}})
    assert pod is not None
    assert (pod.phase, pod.ready, pod.ip, pod.node) == ("Pending", False, None, None)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (names.RAY_CLUSTER_LABEL, None),
        (names.RAY_NODE_TYPE_LABEL, None),
        (names.RAY_NODE_TYPE_LABEL, "redis-cleanup"),
    ],
)
def test_a_pod_of_no_ray_cluster_is_left_aside(label: str, value: str | None) -> None:
    raw = raw_pod()
    raw["metadata"]["labels"][label] = value
    if value is None:
        del raw["metadata"]["labels"][label]
    assert read_pod(raw) is None


PULL = waiting("ImagePullBackOff", "no such image")
WAITS = {
    "nothing": ({}, None),
    "a container that runs": ({"containerStatuses": [RUNNING]}, None),
    "a container": ({"containerStatuses": [PULL]}, Waiting("ImagePullBackOff", "no such image")),
    "an init container": (
        {
            "initContainerStatuses": [PULL],
            "containerStatuses": [waiting("PodInitializing")],
        },
        Waiting("ImagePullBackOff", "no such image"),
    ),
    "a container behind one that is merely coming up": (
        {"containerStatuses": [waiting("ContainerCreating"), PULL]},
        Waiting("ImagePullBackOff", "no such image"),
    ),
    "one that is merely coming up": (
        {"containerStatuses": [waiting("ContainerCreating")]},
        Waiting("ContainerCreating", ""),
    ),
    "a Secret that is missing": (
        {"containerStatuses": [waiting("CreateContainerConfigError", 'secret "x" not found')]},
        Waiting("CreateContainerConfigError", 'secret "x" not found'),
    ),
}


@pytest.mark.parametrize(("status", "expected"), WAITS.values(), ids=WAITS)
def test_what_a_pod_waits_for(status: dict[str, Any], expected: Waiting | None) -> None:
    assert pod_with(**status).waiting == expected


EXITS = {
    "nothing": ({}, None),
    "a finished init container": (
        {"initContainerStatuses": [terminated(0, "Completed")], "containerStatuses": [RUNNING]},
        None,
    ),
    "a failed init container": (
        {
            "initContainerStatuses": [terminated(3, "Error")],
            "containerStatuses": [waiting("PodInitializing")],
        },
        Exit("Error", 3, ""),
    ),
    "the Ray container": (
        {"containerStatuses": [terminated(137, "OOMKilled")]},
        Exit("OOMKilled", 137, ""),
    ),
    "the Ray container that ended well": (
        {"containerStatuses": [terminated(0, "Completed")]},
        Exit("Completed", 0, ""),
    ),
    "an eviction": (
        {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
        Exit("Evicted", 137, "low on memory"),
    ),
    "an eviction that a container had time to answer": (
        {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "low on memory",
            "containerStatuses": [terminated(143, "Error")],
        },
        Exit("Evicted", 143, "low on memory"),
    ),
}


@pytest.mark.parametrize(("status", "expected"), EXITS.values(), ids=EXITS)
def test_how_a_pod_ended(status: dict[str, Any], expected: Exit | None) -> None:
    assert pod_with(**status).exit == expected


def test_the_scheduler_is_quoted() -> None:
    said = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
    assert pod_with(conditions=[said]).unschedulable == "0/2 nodes are available"


def test_a_pod_that_has_a_node_is_not_unschedulable() -> None:
    assert pod_with(conditions=[{"type": "PodScheduled", "status": "True"}]).unschedulable is None


def fetcher_ended(message: str | None, name: str = CODE_CONTAINER) -> PodFacts:
    state = {"exitCode": 0, "reason": "Completed"} | ({"message": message} if message else {})
    return pod_with(initContainerStatuses=[{"name": name, "state": {"terminated": state}}])


def test_a_fetchers_last_word_says_which_code_a_pod_has() -> None:
    frozen = FrozenCode(kind="git", sha256="a" * 64, size_bytes=1, commit="b" * 40)
    assert fetcher_ended(CodeReport(frozen=frozen).to_json()).code == CodeReport(frozen=frozen)
    fault = CodeReport(fault=CodeFault(REFUSED, "why " * 1000))
    told = fetcher_ended(fault.to_json()).code
    assert told is not None
    assert told.fault == CodeFault(REFUSED, ("why " * 1000)[:MAX_FAULT_CHARS])


@pytest.mark.parametrize(
    "message",
    [
        None,
        "Killed",
        "{}",
        '{"frozen": null}',
        '{"frozen": {"kind": "git", "sha256": "../../x", "size_bytes": 1}}',
        '{"fault": {"reason": "Whatever", "message": "x"}}',
    ],
)
def test_a_last_word_that_is_none_is_no_word(message: str | None) -> None:
    assert fetcher_ended(message).code is None


def test_other_containers_say_nothing_of_the_code() -> None:
    frozen = FrozenCode(kind="git", sha256="a" * 64, size_bytes=1)
    assert fetcher_ended(CodeReport(frozen=frozen).to_json(), "wait-gcs-ready").code is None
    running = {"name": CODE_CONTAINER, **RUNNING}
    assert pod_with(initContainerStatuses=[running]).code is None
