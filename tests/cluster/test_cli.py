"""`dsjob` on a real API server: what is accepted, refused, listed, followed, and how it exits.

The operator is not running; a status is written as it would write it.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from deepspeed_operator.cli.ends import Exit
from deepspeed_operator.cli.main import main
from devcluster.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.jobs import small_job
from tests.support.kube import Kube

JOB = "deepspeedjobs.dsjob.dev"
RAYJOB = Path(__file__).resolve().parents[1] / "data" / "rayjob.yaml"
SINCE = "2026-01-01T12:00:00Z"


class Desk:
    """Somebody who types dsjob, in a namespace of the cluster."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.where = ("--kubeconfig", str(kubeconfig), "-n", namespace)
        self.namespace = namespace

    def type_in(self, *words: str, given: str | None = None) -> Result:
        return CliRunner().invoke(main, [*words, *self.where], input=given, prog_name="dsjob")

    def submit(self, *objects: dict[str, Any], more: tuple[str, ...] = ()) -> Result:
        return self.type_in("submit", "-f", "-", *more, given=yaml.safe_dump_all(objects))


@pytest.fixture(scope="module")
def home(kube: Kube, chart: None) -> Iterator[str]:
    """One namespace for the jobs of this module."""
    with kube.namespace("cli") as name:
        yield name


@pytest.fixture
def desk(cluster: Cluster, kube: Kube, home: str) -> Iterator[Desk]:
    yield Desk(cluster.kubeconfig, home)
    kube.run("delete", JOB, "--all", "-n", home)


def a_job(desk: Desk, **spec: Any) -> dict[str, Any]:
    return small_job(desk.namespace, "bert", **spec)


def write_status(kube: Kube, desk: Desk, end: str = "", **fields: Any) -> None:
    """Write what the operator would; `end` is Complete or Failed."""
    conditions = [
        {
            "type": kind,
            "status": str(kind in ("Ready", end) or (kind == "Finished" and end != "")),
            "reason": "Test",
            "message": "said by the test",
            "lastTransitionTime": SINCE,
            "observedGeneration": kube.get(JOB, "bert", desk.namespace)["metadata"]["generation"],
        }
        for kind in ("Ready", "Complete", "Failed", "Finished")
    ]
    status = {"phase": "Running", "conditions": conditions, "startTime": SINCE, **fields}
    kube.patch(JOB, "bert", {"status": status}, desk.namespace, "status")


@pytest.mark.parametrize(
    "words",
    [
        ("-f", str(RAYJOB)),
        ("--", *"deepspeed --num_nodes 2 --num_gpus 8 train.py --deepspeed_config ds.json".split()),
        ("--", *"torchrun --nnodes 2 train.py".split()),
    ],
    ids=["rayjob", "deepspeed", "torchrun"],
)
def test_what_convert_prints_is_accepted(desk: Desk, kube: Kube, words: tuple[str, ...]) -> None:
    printed = CliRunner().invoke(main, ["convert", *words])
    assert printed.exit_code == Exit.DONE, printed.output
    job = yaml.safe_load(printed.stdout)
    job["metadata"]["namespace"] = desk.namespace
    done = desk.submit(job)
    assert done.exit_code == Exit.DONE, done.output
    assert kube.get(JOB, job["metadata"]["name"], desk.namespace)["spec"]["nodes"] >= 2


def test_a_manifest_with_several_objects_is_applied(desk: Desk, kube: Kube) -> None:
    data = {"ds_config.json": "{}"}
    config = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ds"}, "data": data,
    }  # fmt: skip
    first = desk.submit(config, a_job(desk))
    assert (first.exit_code, first.stdout.splitlines()) == (
        Exit.DONE, ["configmap/ds created", "deepspeedjob/bert created"],
    )  # fmt: skip
    assert kube.get("configmap", "ds", desk.namespace)["data"] == data
    again = desk.submit(a_job(desk, ttlSecondsAfterFinished=60))
    assert again.stdout == "deepspeedjob/bert applied\n"
    spec = kube.get(JOB, "bert", desk.namespace)["spec"]
    assert spec["ttlSecondsAfterFinished"] == 60


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"nodes": 0}, "spec.nodes"),
        ({"entrypoint": {"script": "a.py", "config": {}}}, "spec.entrypoint.config"),
        ({"nodez": 2}, "spec.nodez"),
        ({"nodes": "two"}, "spec.nodes"),
    ],
)
def test_a_refusal_names_the_field_and_exits_with_1(
    desk: Desk, spec: dict[str, Any], field: str
) -> None:
    result = desk.submit(a_job(desk, **spec))
    assert result.exit_code == Exit.FAILED, result.stderr
    assert "deepspeedjob/bert is refused" in result.stderr
    assert field in result.stderr
    assert desk.type_in("status", "bert").exit_code == Exit.FAILED


def test_what_follows_a_refusal_is_still_applied(desk: Desk, kube: Kube) -> None:
    other = small_job(desk.namespace, "other")
    result = desk.submit(a_job(desk, nodes=0), other)
    assert result.exit_code == Exit.FAILED
    assert kube.find(JOB, "other", desk.namespace) is not None


def test_a_fixed_field_is_refused_with_the_way_out(desk: Desk) -> None:
    desk.submit(a_job(desk))
    result = desk.submit(a_job(desk, nodes=2))
    assert result.exit_code == Exit.FAILED
    assert "delete the job and create it anew" in result.stderr


def test_a_field_of_somebody_else_is_taken_over_by_force_alone(desk: Desk, kube: Kube) -> None:
    desk.submit(a_job(desk))
    theirs = a_job(desk, ttlSecondsAfterFinished=7)
    words = ("apply", "--server-side", "--force-conflicts", "--field-manager=argocd", "-f", "-")
    kube.run(*words, stdin=json.dumps(theirs))
    ours = a_job(desk, ttlSecondsAfterFinished=8)
    refused = desk.submit(ours)
    assert refused.exit_code == Exit.FAILED
    assert "argocd" in refused.stderr
    assert "--force-conflicts" in refused.stderr
    assert desk.submit(ours, more=("--force-conflicts",)).exit_code == Exit.DONE


def test_a_kind_that_the_cluster_does_not_have_is_refused(desk: Desk) -> None:
    odd = {"apiVersion": "example.dev/v1", "kind": "Odd", "metadata": {"name": "x"}}
    result = desk.submit(odd)
    assert result.exit_code == Exit.FAILED
    assert "no kind Odd in example.dev/v1" in result.stderr


def test_jobs_are_listed_by_namespace_and_all_together(desk: Desk, kube: Kube) -> None:
    empty = desk.type_in("list")
    assert (empty.exit_code, empty.stdout) == (Exit.DONE, "")
    assert "no DeepSpeedJobs in namespace" in empty.stderr
    desk.submit(a_job(desk))
    write_status(kube, desk, progress={"step": 3, "totalSteps": 9, "loss": "0.5"})
    head, row = desk.type_in("list").stdout.splitlines()
    assert head.split() == "NAME PHASE NODES STEP LOSS RESTARTS AGE WHY".split()
    assert row.split()[:6] == ["bert", "Running", "1", "3/9", "0.5", "0"]
    everywhere = desk.type_in("list", "-A").stdout
    assert [desk.namespace, "bert"] in [line.split()[:2] for line in everywhere.splitlines()]


def test_status_exits_by_the_end_of_the_job(desk: Desk, kube: Kube) -> None:
    desk.submit(a_job(desk))
    new = desk.type_in("status", "bert")
    assert (new.exit_code, "bert  New" in new.stdout) == (Exit.DONE, True)
    write_status(kube, desk)
    assert desk.type_in("status", "bert").exit_code == Exit.DONE
    write_status(kube, desk, "Complete", phase="Succeeded")
    assert desk.type_in("status", "bert").exit_code == Exit.DONE
    failure = {"cause": "Signal", "message": "SIGKILL", "rank": 1, "logTail": ["step 8"]}
    write_status(kube, desk, "Failed", phase="Failed", failure=failure)
    failed = desk.type_in("status", "bert")
    assert failed.exit_code == Exit.FAILED
    for fact in ("Signal: SIGKILL", "rank 1", "│ step 8", "said by the test"):
        assert fact in failed.stdout


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_status_gives_programs_the_whole_job(desk: Desk, kube: Kube, output: str, read) -> None:
    desk.submit(a_job(desk))
    told = read(desk.type_in("status", "bert", "-o", output).stdout)
    assert told == kube.get(JOB, "bert", desk.namespace)


def test_a_job_that_is_not_there_is_said(desk: Desk) -> None:
    result = desk.type_in("status", "nobody")
    assert result.exit_code == Exit.FAILED
    assert "there is no DeepSpeedJob 'nobody' in namespace" in result.stderr


@pytest.fixture
def ending(desk: Desk, kube: Kube) -> Iterator[Any]:
    """Lets the job train one step and end so, as soon as it is there."""
    threads: list[threading.Thread] = []

    def live(end: str, phase: str) -> None:
        def play() -> None:
            eventually(lambda: kube.find(JOB, "bert", desk.namespace), "the job", within_s=30)
            write_status(kube, desk, progress={"step": 1})
            failure = {"cause": "UserError", "message": "it raised", "logTail": ["boom"]}
            told = {"failure": failure} if end == "Failed" else {}
            write_status(kube, desk, end, phase=phase, progress={"step": 2}, **told)

        threads.append(threading.Thread(target=play))
        threads[-1].start()

    yield live
    for thread in threads:
        thread.join()


def test_a_submitted_job_is_followed_to_its_good_end(desk: Desk, ending) -> None:
    ending("Complete", "Succeeded")
    result = desk.submit(a_job(desk), more=("--watch", "--timeout", "60"))
    assert result.exit_code == Exit.DONE, result.stderr
    assert "Succeeded   step 2" in result.stdout


def test_a_followed_job_that_fails_exits_with_1_and_its_last_words(desk: Desk, ending) -> None:
    desk.submit(a_job(desk))
    ending("Failed", "Failed")
    result = desk.type_in("status", "bert", "--watch", "--timeout", "60")
    assert result.exit_code == Exit.FAILED
    assert "bert failed:" in result.stderr
    assert "│ boom" in result.stderr


def test_a_watch_that_takes_too_long_says_how_things_are(desk: Desk) -> None:
    desk.submit(a_job(desk))
    result = desk.type_in("status", "bert", "--watch", "--timeout", "0.1")
    assert result.exit_code == Exit.TOO_LATE
    assert "conditions:" in result.stdout
    assert "pods:\n    none" in result.stdout


def test_a_finished_job_runs_anew_when_asked(desk: Desk, kube: Kube) -> None:
    desk.submit(a_job(desk))
    first = kube.get(JOB, "bert", desk.namespace)["metadata"]["uid"]
    kept = desk.submit(a_job(desk), more=("--anew",))
    assert kept.exit_code == Exit.DONE
    assert kube.get(JOB, "bert", desk.namespace)["metadata"]["uid"] == first, "it was not finished"
    write_status(kube, desk, "Complete", phase="Succeeded")
    told = desk.submit(a_job(desk))
    assert "does not run again" in told.stdout
    anew = desk.submit(a_job(desk), more=("--anew",))
    assert "deleting it" in anew.stdout
    assert kube.get(JOB, "bert", desk.namespace)["metadata"]["uid"] != first


def kubeconfig_of(kube: Kube, cluster: Cluster, namespace: str, path: Path) -> Path:
    """The kubeconfig of the namespace's default ServiceAccount."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = kube.run("create", "token", "default", "-n", namespace).strip()
    config["users"][0]["user"] = {"token": token}
    path.write_text(yaml.safe_dump(config))
    return path


def test_who_may_not_is_told_so_and_exits_with_3(
    desk: Desk, kube: Kube, cluster: Cluster, tmp_path: Path
) -> None:
    path = kubeconfig_of(kube, cluster, desk.namespace, tmp_path / "kubeconfig")
    result = Desk(path, desk.namespace).type_in("list")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "the API server denies this" in result.stderr
    assert yaml.safe_load(path.read_text())["users"][0]["user"]["token"] not in result.stderr
