"""Code from git on two real nodes: the branch moves between attempts, the run's code does not.

The git server stands on this machine, where the dev cluster's pods reach it, behind https and a
login.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from devcluster.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.gitserver import GitServer, git_server
from tests.support.kube import Kube, condition
from tests.support.quickstart import Run

USER, PASSWORD = "bot", "pa55-w0rd"
PROGRAM = """\
#!/bin/sh
echo "attempt $DSJOB_ATTEMPT of rank $RANK has $(cat version.txt)"
touch new.txt && echo "the code can be written to"
test ! -e /mnt/code-secret || echo "the secret is here"
test "$DSJOB_ATTEMPT" != 1 || exec sleep 600
"""


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    address = urlsplit(cluster.server).hostname
    assert address is not None
    with git_server(tmp_path_factory.mktemp("git"), address) as found:
        found.logins = {USER: PASSWORD}
        yield found


def from_git(server: GitServer, kube: Kube, namespace: str, **fields: str) -> dict[str, object]:
    """A job's code, with the Secret that it names."""
    keys = {"username": USER, "password": PASSWORD, "ca.crt": Path(server.authority).read_text()}
    where = {"name": "git", "namespace": namespace}
    kind = "kubernetes.io/basic-auth"
    kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": where, "type": kind, "stringData": keys}
    )
    url = f"{server.url}/team/code.git"
    return {"git": {"url": url, "secretRef": {"name": "git"}, "path": "src", **fields}}


@pytest.mark.usefixtures("operator")
def test_a_second_attempt_runs_the_commit_of_the_first_though_the_branch_moved(
    quickstart: Callable[..., Run], kube: Kube, namespace: str, server: GitServer
) -> None:
    repository = server.repository()
    first = repository.commit({"src/run.sh": PROGRAM, "src/version.txt": "the first commit"})
    run = quickstart(
        entrypoint={"command": ["./run.sh"], "distributed": False},
        code=from_git(server, kube, namespace, ref="main"),
        deepspeed={},
        failurePolicy={"maxRestarts": 1, "backoffSeconds": 0},
    )
    status = run.await_condition("Running")["status"]
    assert status["run"]["code"]["commit"] == first
    for rank in (0, 1):
        log = f"attempt-1/logs/rank-{rank:05d}.log"
        eventually(lambda log=log: "has the" in (run.read(log) or ""), f"rank {rank} began")
    asked = len(server.met)
    second = repository.commit({"src/run.sh": PROGRAM, "src/version.txt": "the second commit"})
    assert second != first
    kube.run("delete", "pod", "-n", namespace, status["cluster"]["head"], "--wait=false")
    job = run.await_condition("Complete")
    assert [attempt["cause"] for attempt in job["status"]["attempts"][:1]] == ["HeadLost"]
    assert job["status"]["attempts"][1]["cluster"] != job["status"]["attempts"][0]["cluster"]
    assert job["status"]["run"]["code"] == status["run"]["code"]
    for attempt in (1, 2):
        for rank in (0, 1):
            log = run.read(f"attempt-{attempt}/logs/rank-{rank:05d}.log") or ""
            assert f"attempt {attempt} of rank {rank} has the first commit" in log
            assert "can be written to" not in log
            assert "secret is here" not in log
    assert len(server.met) == asked, "the second attempt took the run's own copy"
    told = [kube.list(kind, namespace) for kind in ("pods", "rayclusters", "events")]
    assert PASSWORD not in yaml.safe_dump([job, *told])


@pytest.mark.full
@pytest.mark.usefixtures("operator")
def test_a_second_attempt_has_the_files_of_the_first_though_the_config_map_is_gone(
    quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    where = {"name": "code", "namespace": namespace}
    files = {"run.sh": PROGRAM, "version.txt": "the first files"}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": files})
    run = quickstart(
        entrypoint={"command": ["./run.sh"], "distributed": False},
        code={"configMap": {"name": "code"}},
        deepspeed={},
        failurePolicy={"maxRestarts": 1, "backoffSeconds": 0},
    )
    status = run.await_condition("Running")["status"]
    kube.run("delete", "configmap", "-n", namespace, "code")
    kube.run("delete", "pod", "-n", namespace, status["cluster"]["head"], "--wait=false")
    job = run.await_condition("Complete")
    assert len(job["status"]["attempts"]) == 2
    for rank in (0, 1):
        log = run.read(f"attempt-2/logs/rank-{rank:05d}.log") or ""
        assert f"attempt 2 of rank {rank} has the first files" in log


@pytest.mark.full
@pytest.mark.usefixtures("operator")
def test_a_branch_that_is_not_there_fails_the_job_at_once_and_says_so(
    quickstart: Callable[..., Run], kube: Kube, namespace: str, server: GitServer
) -> None:
    server.repository("team/other.git").commit({"src/a.py": "1"})
    code = from_git(server, kube, namespace, ref="nothing", url=f"{server.url}/team/other.git")
    run = quickstart(entrypoint={"script": "a.py"}, code=code)
    job = run.await_condition("Failed")
    assert condition(job, "Failed")["reason"] == "CodeRefused"
    assert job["status"]["failure"]["message"].startswith("spec.code.git.ref: git says: ")
    assert len(job["status"]["attempts"]) == 1
    assert PASSWORD not in yaml.safe_dump(job)
