"""From an opened attempt to a run that is handed over to the head: what waits for what."""

from dataclasses import replace
from typing import Any

from deepspeed_operator.api.types import DeepSpeedJobStatus
from deepspeed_operator.decide.actions import ApplyObject, EnsureToken, SubmitRun
from deepspeed_operator.decide.observed import Wanted
from deepspeed_operator.decide.prerequisites import derive_wanted
from deepspeed_trainer.contract import (
    CODE_ENV,
    CONTRACT_ENV,
    CodeOrder,
    CodeReport,
    FrozenCode,
    RunContract,
)
from tests.support.builders import (
    DEFAULTS,
    MET,
    JobBuilder,
    a_cluster,
    a_job,
    a_pod,
    after,
    observed,
    ready_pods,
)
from tests.support.passes import cluster_name, decide, opened, status_of, submitting


def test_second_pass_makes_token_before_cluster() -> None:
    plan = decide(opened(a_job()), observed())
    assert [type(a) for a in plan.actions] == [EnsureToken, ApplyObject]
    assert plan.status is None


def test_run_is_handed_over_only_when_status_names_the_head() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=ready_pods(name))
    recording = decide(job, facts)
    assert recording.actions == ()
    assert recording.locked
    attempt = status_of(recording).attempts[-1]
    assert (attempt.state, attempt.head_uid) == ("Submitting", facts.pods[0].uid)
    acting = decide(job.with_status(recording.status), facts)
    assert [type(a) for a in acting.actions] == [SubmitRun]
    assert acting.status is None


def test_contract_names_head_nodes_and_resume() -> None:
    job, facts = submitting(a_job().with_spec(checkpoint={"resume": {"mode": "Never"}}))
    (submit,) = decide(job, facts).actions
    assert isinstance(submit, SubmitRun)
    ordered = RunContract.from_json(submit.env[CONTRACT_ENV])
    assert ordered.head_pod_uid == facts.pods[0].uid
    assert (ordered.nodes, ordered.ranks_per_node, ordered.resume) == (2, 1, "Never")


def test_nothing_is_handed_over_while_a_worker_is_missing() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    pods = ready_pods(name, workers=1)
    plan = decide(job, observed(clusters=(a_cluster(name),), pods=pods))
    assert plan.actions == ()
    assert all(a.state == "Opened" for a in (plan.status or DeepSpeedJobStatus()).attempts)


def test_waiting_for_pods_writes_nothing_twice() -> None:
    job = opened(a_job())
    name = cluster_name(job)
    facts = observed(clusters=(a_cluster(name),), pods=ready_pods(name, workers=1))
    first = decide(job, facts)
    assert decide(job.with_status(first.status), facts, 5).status is None


def test_run_is_never_handed_to_another_head_than_the_recorded_one() -> None:
    job, facts = submitting(a_job())
    other = a_pod(facts.pods[0].cluster, "head", 7)
    plan = decide(job, observed(clusters=facts.clusters, pods=(other, *facts.pods[1:])))
    assert not any(isinstance(a, SubmitRun) for a in plan.actions)


FROZEN = FrozenCode(kind="git", sha256="a" * 64, size_bytes=10240, commit="c" * 40)
FROM_GIT = {"git": {"url": "https://git.example/team/code.git", "secretRef": {"name": "git"}}}


def built_cluster(job: JobBuilder) -> dict[str, Any]:
    """The RayCluster that the next pass makes."""
    (made,) = [a for a in decide(job, observed()).actions if isinstance(a, ApplyObject)]
    return dict(made.body)


def orders(cluster: dict[str, Any]) -> list[CodeOrder]:
    """What the fetchers of head and workers are told."""
    found = []
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        (fetcher,) = group["template"]["spec"]["initContainers"]
        env = {each["name"]: each["value"] for each in fetcher["env"]}
        found.append(CodeOrder.from_json(env[CODE_ENV]))
    return found


def test_a_run_names_its_code_and_later_attempts_are_told_to_have_the_same() -> None:
    job = opened(a_job().with_restarts(1).with_spec(code=FROM_GIT))
    head, worker = orders(built_cluster(job))
    assert (head.makes_copy, worker.makes_copy) == (True, False)
    assert (head.expected, head.ref, head.secret) == ("", "HEAD", "git")
    name = cluster_name(job)
    fetched, *others = ready_pods(name)
    pods = (replace(fetched, code=CodeReport(frozen=FROZEN)), *others)
    job = job.with_status(decide(job, observed(clusters=(a_cluster(name),), pods=pods)).status)
    [code] = [job.build().status["run"]["code"]]
    assert code["commit"] == FROZEN.commit
    assert code["path"] == f"{head.folder}/{FROZEN.sha256}.tar"
    assert code["path"].startswith(job.build().status["run"]["storagePath"])
    # The head is lost: another attempt, on another cluster, with the same code.
    job = job.with_status(decide(job, observed(clusters=(a_cluster(name),)), 1).status)
    job = job.with_status(decide(job, observed(), 2).status)
    assert job.build().status["run"]["code"] == code
    again = built_cluster(job)
    assert [order.expected for order in orders(again)] == [FROZEN.sha256] * 2
    assert not any(order.makes_copy for order in orders(again))
    assert "code-secret" not in str(again), "what is not read needs no credentials"


def test_the_fetcher_alone_sees_the_credentials() -> None:
    cluster = built_cluster(opened(a_job().with_spec(code=FROM_GIT)))
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    (worker,) = (g["template"]["spec"] for g in cluster["spec"]["workerGroupSpecs"])
    (fetcher,), (main,) = head["initContainers"], head["containers"]
    assert "code-secret" in {mount["name"] for mount in fetcher["volumeMounts"]}
    assert "code-secret" not in {mount["name"] for mount in main["volumeMounts"]}
    assert "code-secret" not in {volume["name"] for volume in worker["volumes"]}
    assert fetcher["securityContext"] == main["securityContext"]
    (code,) = [m for m in main["volumeMounts"] if m["name"] == "code"]
    assert code == {"name": "code", "mountPath": "/mnt/code", "readOnly": True}
    assert main["workingDir"] == "/mnt/code"


def test_code_without_storage_is_refused_even_by_an_old_api_server() -> None:
    job = a_job().without("storage").with_spec(code=FROM_GIT, nodes=1)
    plan = decide(opened(job), observed())
    assert "spec.storage" in plan.sentence


def test_a_config_map_is_read_once_and_not_missed_when_it_is_gone() -> None:
    job = opened_with_code(a_job().with_restarts(1).with_spec(code={"configMap": {"name": "code"}}))
    cluster = built_cluster(job)
    head, worker = orders(cluster)
    assert (head.kind, head.makes_copy, worker.makes_copy) == ("configMap", True, False)
    main = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert "code-source" not in {mount["name"] for mount in main["volumeMounts"]}
    name = cluster_name(job)
    fetched, *others = ready_pods(name)
    report = CodeReport(frozen=replace(FROZEN, kind="configMap", commit=None))
    up = observed(clusters=(a_cluster(name),), pods=(replace(fetched, code=report), *others))
    job = job.with_status(decide(job, up).status)
    job = job.with_status(decide(job, observed(clusters=(a_cluster(name),)), 1).status)
    # Nobody asks for the ConfigMap any more, so nobody misses it.
    assert derive_wanted(job.build(), observed(), DEFAULTS, after(2)) == Wanted(
        kuberay=True, claims=frozenset({"runs"})
    )
    job = job.with_status(decide(job, observed(), 2).status)
    assert len(job.build().status["attempts"]) == 2
    assert "code-source" not in str(built_cluster(job))


def opened_with_code(job: JobBuilder) -> JobBuilder:
    """The job after its first pass, at which its ConfigMap was there."""
    there = replace(MET, config_maps={"code": {"train.py": "1"}})
    return job.with_status(decide(job, observed(prerequisites=there)).status)


def test_a_config_map_without_storage_is_mounted_as_it_is() -> None:
    job = a_job().without("storage").with_spec(nodes=1, code={"configMap": {"name": "code"}})
    pod = built_cluster(opened_with_code(job))["spec"]["headGroupSpec"]["template"]["spec"]
    assert "initContainers" not in pod
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "code"]
    assert volume["configMap"] == {"name": "code", "defaultMode": 0o555}
