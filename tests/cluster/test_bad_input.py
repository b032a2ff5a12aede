"""What only the operator can know about a job that cannot run: it says so soon, and what to do.

Issue 3's bounds: a condition with the fix in at most 10 s and no pods; after the verdict on an
image that cannot be pulled, the attempt's pods gone in at most 30 s. Every case, with its seconds,
its pods and its text, is a row of build/bad-input.md. Real here: API server,
controllers, scheduler, KubeRay, the operator with its chart's rights. Played: nodes and kubelets
(support/hands.py).
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from deepspeed_operator.api.names import Reason
from devcluster.build import kuberay_crds
from devcluster.cluster import Cluster
from tests.support.audit import AuditLog
from tests.support.eventually import eventually
from tests.support.hands import ROOM, Behaviour, Hands, make_nodes, waits_for
from tests.support.installed import HostOperator, operator_on_host
from tests.support.jobs import PODS, LiveJob, home_of_jobs, small_job
from tests.support.kube import Kube, condition, kube_of
from tests.support.report import publish
from tests.support.without_kuberay import plain_cluster
from tools.install import install_chart

TO_THE_CONDITION_S = 10.0
TO_NO_PODS_S = 30.0
KUBERAY = "devcluster:kuberay"
RAYCLUSTERS = "rayclusters.ray.io"
DEVICE = "example.com/accelerator"


@dataclass(frozen=True)
class Case:
    """A job that cannot run, and what it is told."""

    spec: Mapping[str, Any]
    reason: Reason
    says: tuple[str, ...]
    """Words of the fix."""
    pods: Behaviour | None = None
    """How its pods behave, where it gets so far."""


@dataclass
class Row:
    """What was seen of a case."""

    case: str
    reason: str
    seconds: float
    pods_created: int
    text: str
    failed: bool = False
    seconds_to_no_pods: float | None = field(default=None)


TWO_NODES = {"nodes": 2, "storage": {"volumeClaim": "shared"}}
CASES: Mapping[str, Case] = {
    "the ConfigMap is missing": Case(
        {"deepspeed": {"configMap": {"name": "absent"}}},
        Reason.CONFIG_MAP_MISSING,
        ("spec.deepspeed.configMap", "'absent'", "create it"),
    ),
    "the ConfigMap lacks the key": Case(
        {"deepspeed": {"configMap": {"name": "present", "key": "other.json"}}},
        Reason.CONFIG_MAP_MISSING,
        ("spec.deepspeed.configMap.key", "'other.json'", "it has ds_config.json"),
    ),
    "the ConfigMap holds no JSON": Case(
        {"deepspeed": {"configMap": {"name": "present"}}},
        Reason.DEEPSPEED_CONFIG_INVALID,
        ("ConfigMap present", "not JSON"),
    ),
    "a key of the DeepSpeed configuration is misspelt": Case(
        {"deepspeed": {"config": {"zero_optimisation": {"stage": 3}}}},
        Reason.DEEPSPEED_CONFIG_INVALID,
        ("deepspeed.config", "'zero_optimisation'", "did you mean 'zero_optimization'"),
    ),
    "two nodes and no storage": Case(
        {"nodes": 2},
        Reason.STORAGE_MISSING,
        ("spec.storage", "ReadWriteMany", "spec.storage.volumeClaim"),
    ),
    "the claim is missing": Case(
        {"nodes": 2, "storage": {"volumeClaim": "absent"}},
        Reason.CLAIM_MISSING,
        ("spec.storage.volumeClaim", "'absent'", "create it"),
    ),
    "the claim is ReadWriteOnce": Case(
        {"nodes": 2, "storage": {"volumeClaim": "single"}},
        Reason.CLAIM_NOT_SHARED,
        ("spec.storage.volumeClaim", "ReadWriteOnce", "ReadWriteMany"),
    ),
    "no node has the device": Case(
        {"gpusPerNode": 8, "accelerator": {"type": "Nvidia"}},
        Reason.ACCELERATOR_MISSING,
        ("8 nvidia.com/gpu", "no node offers any", "install the device plugin"),
    ),
    "no node has enough devices": Case(
        {"gpusPerNode": 8, "accelerator": {"type": "Nvidia", "resourceName": DEVICE}},
        Reason.ACCELERATOR_MISSING,
        (f"8 {DEVICE}", "the most that a node offers is 4", "lower spec.gpusPerNode"),
    ),
    "shared memory fills the pod": Case(
        {"worker": {"resources": {"memory": "2Gi"}, "sharedMemory": "2Gi"}},
        Reason.INVALID_SPEC,
        ("worker.sharedMemory", "smaller than worker.resources.memory"),
    ),
    "the image is not there and never pulled": Case(
        {"image": "nowhere.example/absent:1", "imagePullPolicy": "Never"},
        Reason.IMAGE_PULL_FAILED,
        ("nowhere.example/absent:1", "ErrImageNeverPull", "imagePullPolicy"),
        waits_for("ErrImageNeverPull", "the image is not present with pull policy of Never"),
    ),
    "pulling the image fails again and again": Case(
        {"image": "nowhere.example/absent:2"},
        Reason.IMAGE_PULL_FAILING,
        ("nowhere.example/absent:2", "ImagePullBackOff", "registry's credentials"),
        waits_for("ImagePullBackOff", "Back-off pulling image: not found"),
    ),
}
WITHOUT_PODS = [name for name, case in CASES.items() if case.pods is None]
WITH_PODS = [name for name, case in CASES.items() if case.pods is not None]
ENDED = [name for name, case in CASES.items() if case.reason is Reason.IMAGE_PULL_FAILED]


@pytest.fixture(scope="module")
def hands(cluster: Cluster) -> Iterator[Hands]:
    with Hands(cluster) as found:
        api = cluster.control_plane.api()
        make_nodes(api, {"devices": {**ROOM, DEVICE: "4"}})
        yield found
        api.request("DELETE", "/api/v1/nodes/devices")


@pytest.fixture(scope="module")
def operating(
    cluster: Cluster, chart: None, hands: Hands, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostOperator]:
    with operator_on_host(cluster, tmp_path_factory.mktemp("operator")) as running:
        yield running


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[list[Row]]:
    """All rows; published when the module ends, whatever the tests say of them."""
    rows: list[Row] = []
    yield rows
    publish(pytestconfig, "bad-input.md", render(rows))


@pytest.fixture(scope="module")
def rows(
    cluster: Cluster, operating: HostOperator, hands: Hands, audit: AuditLog, table: list[Row]
) -> Iterator[dict[str, Row]]:
    """Every case, tried: those that shall make no pods in one namespace, the others in another."""
    kube, since = kube_of(cluster), audit.end()
    with home_of_jobs(kube, "waits") as waits, home_of_jobs(kube, "pulls") as pulls:
        prepare(kube, waits)
        found = {}
        for number, (name, case) in enumerate(CASES.items()):
            home = waits if case.pods is None else pulls
            if case.pods is not None:
                hands.play(home, case.pods, job=f"case-{number}")
            job = LiveJob(cluster, small_job(home, f"case-{number}", **case.spec))
            found[name] = try_case(name, case, job, audit)
        for name in WITHOUT_PODS:
            # Counted at the end and over all of them, so that late ones count too.
            found[name].pods_created = count_pods(audit, waits, since)
        table.extend(found.values())
        yield found


def prepare(kube: Kube, namespace: str) -> None:
    """A ConfigMap and a claim that are there and of no use."""
    metadata = {"namespace": namespace}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "present"},
            "data": {"ds_config.json": "{zero: 3}"},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {**metadata, "name": "single"},
            "spec": claim,
        },
    )


def try_case(name: str, case: Case, job: LiveJob, audit: AuditLog) -> Row:
    """Apply a job and watch the clock until it has the condition, and until its pods are gone."""
    mark, began_s = audit.end(), time.monotonic()
    job.apply()
    if case.pods is not None:
        # What counts is the operator's share: from the moment when a kubelet shows its trouble.
        eventually(lambda: shows_trouble(job), f"{name}: the kubelet shows why its pod waits")
        began_s = time.monotonic()
    ready = eventually(
        lambda: has_reason(job, case.reason), f"{name}: the condition is there", within_s=120
    )
    said_s = time.monotonic()
    row = Row(name, case.reason, said_s - began_s, 0, ready["message"])
    row.failed = job.condition("Failed")["status"] == "True"
    if row.failed:
        eventually(lambda: not job.children(PODS), f"{name}: its pods are gone", within_s=120)
        row.seconds_to_no_pods = time.monotonic() - said_s
    row.pods_created = count_pods(audit, job.namespace, mark)
    return row


def shows_trouble(job: LiveJob) -> bool:
    statuses = [pod.get("status", {}) for pod in job.children(PODS)]
    return any(
        "waiting" in container["state"]
        for status in statuses
        for container in status.get("containerStatuses", [])
    )


def has_reason(job: LiveJob, reason: Reason) -> dict[str, Any]:
    ready = condition(job.read(), "Ready")
    assert ready["reason"] == reason, ready
    return ready


def count_pods(audit: AuditLog, namespace: str, since: int) -> int:
    """Pods that KubeRay made in a namespace; nobody else makes any."""
    calls = audit.writes_by(KUBERAY, since=since)
    made = ("create", "pods", "", namespace)
    return sum((c.verb, c.resource, c.subresource, c.namespace) == made for c in calls)


def render(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = [
        "| case | reason | s to the condition | pods created | s to no pods | text |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        gone = "" if row.seconds_to_no_pods is None else f"{row.seconds_to_no_pods:.1f}"
        cells = (row.case, row.reason, f"{row.seconds:.1f}", str(row.pods_created), gone, row.text)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("case", CASES)
def test_the_condition_comes_soon_and_names_the_fix(rows: dict[str, Row], case: str) -> None:
    row = rows[case]
    assert row.seconds <= TO_THE_CONDITION_S
    assert [words for words in CASES[case].says if words not in row.text] == []


@pytest.mark.parametrize("case", WITHOUT_PODS)
def test_a_job_that_cannot_start_makes_no_pods(rows: dict[str, Row], case: str) -> None:
    assert rows[case].pods_created == 0
    assert not rows[case].failed, "it waits, as its user may bring what is missing"


@pytest.mark.parametrize("case", WITH_PODS)
def test_a_failing_pull_ends_the_job_only_when_it_is_hopeless(
    rows: dict[str, Row], case: str
) -> None:
    assert rows[case].pods_created == 2
    assert rows[case].failed == (case in ENDED)


@pytest.mark.parametrize("case", ENDED)
def test_pods_are_gone_soon_after_the_verdict(rows: dict[str, Row], case: str) -> None:
    gone_s = rows[case].seconds_to_no_pods
    assert gone_s is not None
    assert gone_s <= TO_NO_PODS_S


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveJob]:
    """A job on a cluster without KubeRay, with the operator there; not applied yet."""
    with plain_cluster() as plain:
        install_chart(plain, {"trainerImage": "localhost/trainer:1"})
        with operator_on_host(plain, tmp_path_factory.mktemp("operator")):
            yield LiveJob(plain, small_job("default", "early"))


def test_without_kuberay_a_job_says_so_and_makes_no_pods(early: LiveJob, table: list[Row]) -> None:
    name = "KubeRay is not installed"
    case = Case({}, Reason.KUBERAY_MISSING, ())
    row = try_case(name, case, early, AuditLog(early.cluster.audit_log))
    table.append(row)
    assert row.seconds <= TO_THE_CONDITION_S
    assert early.kube.list("pod") == []
    assert "install the KubeRay operator" in row.text


def test_a_waiting_job_starts_by_itself_when_kuberay_comes(early: LiveJob) -> None:
    early.apply()
    [definition] = [
        found
        for path in kuberay_crds().glob("*.json")
        if (found := json.loads(path.read_text()))["metadata"]["name"] == RAYCLUSTERS
    ]
    early.cluster.control_plane.api().create(definition)
    # kubectl's refusals are asked again: the resource is served some time after it was created.
    made = eventually(lambda: early.kube.list(RAYCLUSTERS), "a RayCluster is made", within_s=120)
    assert [each["metadata"]["labels"]["dsjob.dev/job-name"] for each in made] == ["early"]
