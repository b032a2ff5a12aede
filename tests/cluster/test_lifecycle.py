"""From apply to the end, and what may come between: failure, a lost head, deletion, a restart.

Real here: the API server, its controllers and scheduler, KubeRay, and the operator with its
chart's rights, as a process of this machine. Played: the kubelets (support/hands.py) and what
runs in the head pod (support/head.py).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from deepspeed_operator.build.run import RUN_NAME
from deepspeed_trainer.contract import DRIVER_COMMAND, Cause, Metric, Restart
from devcluster.cluster import Cluster
from tests.support.audit import AuditLog, Call
from tests.support.eventually import eventually
from tests.support.hands import Hands, ends_with, runs, waits_for
from tests.support.head import Head
from tests.support.installed import USER, HostOperator, operator_on_host
from tests.support.jobs import CLUSTERS, PODS, SECRETS, LiveJob, home_of_jobs, small_job
from tests.support.kube import Kube, condition
from tests.support.report import publish

DEFAULT_PROGRESS_INTERVAL = {"DSJOB_PROGRESS_INTERVAL_SECONDS": "30"}


@pytest.fixture(scope="module")
def hands(cluster: Cluster) -> Iterator[Hands]:
    with Hands(cluster) as found:
        yield found


@pytest.fixture(scope="module")
def operating(
    cluster: Cluster, chart: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostOperator]:
    """One operator for this module, with the chart's default interval of progress."""
    folder = tmp_path_factory.mktemp("operator")
    with operator_on_host(cluster, folder, **DEFAULT_PROGRESS_INTERVAL) as running:
        yield running


@pytest.fixture(scope="module")
def home(kube: Kube, hands: Hands, operating: HostOperator) -> Iterator[str]:
    """A namespace whose pods run as soon as they are placed."""
    with home_of_jobs(kube, "lifecycle") as namespace:
        hands.play(namespace)
        yield namespace


@pytest.fixture(scope="module")
def elsewhere(kube: Kube, hands: Hands, operating: HostOperator) -> Iterator[str]:
    """Another one, for jobs that show that the operator has looked at everything since."""
    with home_of_jobs(kube, "elsewhere") as namespace:
        hands.play(namespace)
        yield namespace


def start(
    cluster: Cluster, hands: Hands, home: str, name: str, **spec: Any
) -> tuple[LiveJob, Head]:
    """A job whose first attempt is running, and its head."""
    job = LiveJob(cluster, small_job(home, name, **spec)).apply()
    attempt = job.await_attempt(1, "Running")
    return job, hands.head_of(home, attempt["cluster"])


def writes_in(audit: AuditLog, namespace: str, since: int = 0) -> list[Call]:
    """What the operator wrote in a namespace, or tried to."""
    calls = audit.writes_by(USER, since=since)
    return [call for call in calls if call.namespace == namespace]


@pytest.fixture(scope="module")
def story(
    cluster: Cluster, hands: Hands, operating: HostOperator, kube: Kube, audit: AuditLog
) -> Iterator[dict[str, Any]]:
    """One undisturbed job, and what was seen of it on its way."""
    with home_of_jobs(kube, "undisturbed") as namespace:
        figures = {"total_steps": 40, "samples_per_second": "3.5"}
        hands.play(namespace, on_submission=lambda run: run.go_on(7, loss="0.25", **figures))
        job, head = start(cluster, hands, namespace, "quiet")
        seen = {
            "secrets": job.children(SECRETS),
            "clusters": job.children(CLUSTERS),
            "running": job.await_condition("Running"),
        }
        for step in range(8, 40):
            head.run.go_on(step, loss="0.2", **figures)
        asked = head.run.times_asked
        eventually(lambda: head.run.times_asked > asked + 2, "the last figures were looked at")
        accuracy = Metric("accuracy", "0.95")
        head.run.succeed(40, loss="0.125", metrics=(accuracy,), **figures)
        finished = job.await_condition("Finished")
        eventually(lambda: not job.children(CLUSTERS), "the RayCluster is deleted")
        writes = writes_in(audit, namespace)
        yield {**seen, "finished": finished, "head": head, "writes": writes, "job": job}


def test_children_belong_to_their_job(story: dict[str, Any]) -> None:
    uid = story["running"]["metadata"]["uid"]
    [secret], [raycluster] = story["secrets"], story["clusters"]
    for child in (secret, raycluster):
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("DeepSpeedJob", uid, True)
        assert child["metadata"]["labels"]["dsjob.dev/job-uid"] == uid
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "deepspeed-operator"


def test_the_token_reaches_the_head_by_its_secret(story: dict[str, Any]) -> None:
    [secret], [raycluster] = story["secrets"], story["clusters"]
    assert secret["metadata"]["name"] == raycluster["metadata"]["name"]
    assert raycluster["spec"]["authOptions"] == {
        "mode": "token",
        "secretName": secret["metadata"]["name"],
    }
    assert len(story["head"].token) == 64


def test_the_run_is_handed_over_once_with_its_contract(story: dict[str, Any]) -> None:
    head, uid = story["head"], story["running"]["metadata"]["uid"]
    # Accepted once, that is: a pass that has not heard of it yet may offer it again, and the head
    # refuses an id that it knows.
    assert len(head.runs) == 1
    run = head.run
    assert run.entrypoint == DRIVER_COMMAND
    assert run.contract.submission_id == run.submission_id
    assert (run.contract.job.uid, run.contract.run, run.contract.attempt) == (uid, RUN_NAME, 1)
    assert run.contract.world_size == 1
    assert run.contract.entrypoint.target == "train.py"


def test_a_running_job_shows_its_progress(story: dict[str, Any]) -> None:
    assert story["running"]["status"]["phase"] == "Running"
    assert condition(story["running"], "Ready")["status"] == "True"
    progress = story["running"]["status"]["progress"]
    assert (progress["step"], progress["totalSteps"]) == (7, 40)
    assert (progress["loss"], progress["samplesPerSecond"]) == ("0.25", "3.5")


def test_the_end_is_complete_and_the_last_figures_stay(story: dict[str, Any]) -> None:
    status = story["finished"]["status"]
    assert {kind: condition(story["finished"], kind)["status"] for kind in
            ("Complete", "Failed", "Finished", "Running")} == {
        "Complete": "True", "Failed": "False", "Finished": "True", "Running": "False",
    }  # fmt: skip
    assert (status["phase"], status["attempts"][-1]["state"]) == ("Succeeded", "Succeeded")
    assert (status["progress"]["step"], status["progress"]["loss"]) == (40, "0.125")
    assert status["progress"]["metrics"] == [{"name": "accuracy", "value": "0.95"}]


def test_an_undisturbed_job_costs_at_most_six_writes_of_status(
    story: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    counted = Counter(f"{call.verb} {call.kind}" for call in story["writes"])
    told = "\n".join(f"- {count} of {what}" for what, count in counted.items())
    publish(pytestconfig, "writes.md", f"Writes of an undisturbed job of one attempt:\n{told}")
    assert 0 < counted["patch deepspeedjobs/status"] <= 6
    assert counted["create secrets"] == counted["patch rayclusters"] == 1
    assert [call for call in story["writes"] if call.status >= 400] == []


def test_applying_the_same_manifest_again_changes_nothing(
    cluster: Cluster, hands: Hands, home: str, elsewhere: str, audit: AuditLog
) -> None:
    job, head = start(cluster, hands, home, "twice")
    before, mark = job.read(), audit.end()
    job.apply()
    start(cluster, hands, elsewhere, "after-twice")
    assert job.read()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    [raycluster] = job.children(CLUSTERS)
    assert writes_in(audit, home, mark) == []
    assert len(head.runs) == 1
    assert raycluster["metadata"]["generation"] == 1


def test_deleting_a_running_job_takes_its_children_and_ends_all_writing(
    cluster: Cluster, hands: Hands, home: str, elsewhere: str, audit: AuditLog
) -> None:
    job, _ = start(cluster, hands, home, "dropped")
    mark = audit.end()
    job.kube.delete("deepspeedjobs.dsjob.dev", "dropped", home)
    kinds = (CLUSTERS, SECRETS, PODS)
    eventually(lambda: not any(map(job.children, kinds)), "no child of the job is left")
    start(cluster, hands, elsewhere, "after-dropped")
    assert writes_in(audit, home, mark) == []


def test_a_failed_run_is_tried_again_on_the_same_cluster(
    cluster: Cluster, hands: Hands, home: str
) -> None:
    job, head = start(cluster, hands, home, "again")
    [first] = job.children(CLUSTERS)
    head.run.fail(Cause.USER_ERROR, "ValueError: no", step=3, rank=0)
    job.await_attempt(2, "Running")
    failed, second = job.read()["status"]["attempts"]
    assert (failed["state"], failed["cause"]) == ("Failed", "UserError")
    assert second["cluster"] == failed["cluster"] == first["metadata"]["name"]
    assert [run.submission_id for run in head.runs] == [
        failed["submissionId"],
        second["submissionId"],
    ]
    assert failed["submissionId"] != second["submissionId"]
    [same] = job.children(CLUSTERS)
    assert same["metadata"]["uid"] == first["metadata"]["uid"]
    head.run.succeed(10)
    status = job.await_condition("Complete")["status"]
    assert status["restarts"] == 1
    assert "failure" not in status


def test_restarts_of_ranks_inside_an_attempt_are_counted_and_told(
    cluster: Cluster, hands: Hands, home: str
) -> None:
    job, head = start(cluster, hands, home, "persistent")
    assert head.run.contract.restarts_left == 3
    why = Restart(0.0, Cause.SIGNAL, "rank 0: killed by SIGKILL", 0, "a-pod", 7)
    head.run.go_on(7, restarts=2, last_restarts=(why,))

    def counted() -> dict[str, Any]:
        status: dict[str, Any] = job.read()["status"]
        assert [each.get("restarts") for each in status["attempts"]] == [2], status
        return status

    status = eventually(counted, "two restarts are counted")
    assert status["restarts"] == 2
    assert (status["failure"]["cause"], status["failure"]["rank"]) == ("Signal", 0)
    events = job.kube.list("events.events.k8s.io", home)
    told = [each["note"] for each in events if each["reason"] == "RanksRestarted"]
    assert len(told) == 1, told
    assert "restart 2 of 3" in told[0]
    head.run.fail(Cause.POD_LOST, "rank 0 is gone", restarts=2, last_restarts=(why,))
    job.await_attempt(2, "Running")
    assert head.run.contract.restarts_left == 0
    head.run.succeed(10)
    status = job.await_condition("Complete")["status"]
    assert status["restarts"] == 3


def test_a_lost_head_is_followed_by_a_new_cluster(
    cluster: Cluster, hands: Hands, home: str
) -> None:
    job, head = start(cluster, hands, home, "beheaded")
    first = job.read()["status"]["cluster"]
    job.kube.delete("pod", first["head"], home)
    second = job.await_attempt(2, "Running")
    failed = job.read()["status"]["attempts"][0]
    assert failed["cause"] == "HeadLost"
    assert second["cluster"] != failed["cluster"]
    assert len(head.runs) == 1
    assert len(hands.head_of(home, second["cluster"]).runs) == 1
    eventually(
        lambda: [c["metadata"]["name"] for c in job.children(CLUSTERS)] == [second["cluster"]],
        "only the new RayCluster is left",
    )


def test_a_head_that_ends_before_the_run_is_followed_by_a_new_cluster(
    cluster: Cluster, hands: Hands, home: str
) -> None:
    hands.play(home, ends_with(1), job="stillborn")
    job = LiveJob(cluster, small_job(home, "stillborn")).apply()
    failed = job.await_attempt(1, "Failed")
    hands.play(home, runs, job="stillborn")
    assert failed["cause"] == "PodFailed"
    last = job.await_condition("Running")["status"]["attempts"][-1]
    assert last["cluster"] != failed["cluster"]
    assert len(hands.head_of(home, last["cluster"]).runs) == 1


def test_a_spent_budget_of_restarts_ends_the_job_as_failed(
    cluster: Cluster, hands: Hands, home: str
) -> None:
    policy = {"maxRestarts": 1, "backoffSeconds": 0}
    job, head = start(cluster, hands, home, "hopeless", failurePolicy=policy)
    head.run.fail(Cause.USER_ERROR, "ValueError: first")
    job.await_attempt(2, "Running")
    head.run.fail(Cause.USER_ERROR, "ValueError: second")
    status = job.await_condition("Finished")["status"]
    assert job.condition("Failed")["status"] == "True"
    assert [each["state"] for each in status["attempts"]] == ["Failed", "Failed"]
    assert (status["failure"]["cause"], status["failure"]["rank"]) == ("UserError", 0)
    assert "ValueError: second" in status["failure"]["message"]
    assert len(head.runs) == 2
    eventually(lambda: not job.children(CLUSTERS), "the RayCluster is deleted")


def test_a_token_that_is_not_ours_is_a_condition_and_no_run(
    cluster: Cluster, hands: Hands, home: str
) -> None:
    hands.play(home, waits_for("ContainerCreating", ""), job="foreign")
    job = LiveJob(cluster, small_job(home, "foreign")).apply()
    eventually(lambda: job.children(PODS), "KubeRay has made pods")
    [secret] = job.children(SECRETS)
    forged = {"stringData": {"auth_token": "somebody-elses"}}
    job.kube.patch("secret", secret["metadata"]["name"], forged, home)
    hands.play(home, runs, job="foreign")
    status = job.await_condition("Ready", reason="HeadRefusesToken")["status"]
    assert hands.head_of(home, status["cluster"]["name"]).runs == []


def test_a_restarted_operator_writes_nothing_when_nothing_changed(
    cluster: Cluster, hands: Hands, home: str, operating: HostOperator, audit: AuditLog
) -> None:
    finished, head = start(cluster, hands, home, "finished")
    head.run.succeed(5)
    finished.await_condition("Finished")
    eventually(lambda: not finished.children(CLUSTERS), "its RayCluster is deleted")
    _, head = start(cluster, hands, home, "running")
    mark, asked = audit.end(), head.run.times_asked
    operating.kill()
    # So that figures would be written again if their age alone mattered.
    operating.extra_environment = {"DSJOB_PROGRESS_INTERVAL_SECONDS": "1"}
    operating.start()
    operating.await_ready()
    eventually(lambda: head.run.times_asked > asked + 3, "the new operator follows the run")
    assert audit.writes_by(USER, since=mark) == []
