"""CLUSTER=existing on a real API server: what it lacks is told in a sentence before it is touched.

The server starts with nothing on it, so that each thing can be seen to be missed. What was there
before is there when everything of ours has been removed again.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devcluster import manifests
from devcluster.build import kuberay_crds
from devcluster.cluster import Cluster
from devcluster.errors import Missing, WrongUse
from tests.support.eventually import eventually
from tests.support.installed import ROOT
from tests.support.jobs import small_job
from tests.support.kube import Kube, Refused, kube_of
from tests.support.without_kuberay import plain_cluster
from tools import cluster as chosen
from tools import example, existing, kind
from tools.choice import EXISTING, Choice
from tools.install import NAMESPACE, RELEASE, dev_values, install_chart, run, uninstall_chart
from tools.target import Target

JOBS, CLAIMS = existing.JOBS, "persistentvolumeclaims"
USER = {"namespace": "default", "name": "somebody"}


@pytest.fixture(scope="module")
def plain() -> Iterator[Cluster]:
    """An API server and nothing else."""
    with plain_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def bare(plain: Cluster) -> Kube:
    return kube_of(plain)


@pytest.fixture(scope="module")
def equipped(plain: Cluster, bare: Kube) -> Target:
    """The same with KubeRay's resources; no storage yet."""
    crd = kuberay_crds() / "ray.io_rayclusters.json"
    bare.run("apply", "--server-side", "-f", str(crd))
    target = context_of(plain.kubeconfig)

    def ask() -> bool:
        try:
            existing.ask_for_kuberay(target)
        except Missing as missing:
            raise AssertionError(missing) from missing
        return True

    eventually(ask, "the definition is served")
    return target


@pytest.fixture(scope="module")
def stored(equipped: Target, bare: Kube) -> Target:
    """The same with a default class of storage."""
    bare.apply(storage_class("plenty", is_default=True))
    return equipped


def context_of(kubeconfig: Path) -> Target:
    return existing.open_context(Choice(EXISTING, kubeconfig=str(kubeconfig)))


def config_of(made: Cluster, folder: Path, **changed: Any) -> Path:
    """The cluster's kubeconfig with another server or user, in a folder."""
    config = json.loads(made.kubeconfig.read_text())
    config["clusters"][0]["cluster"] |= changed.get("cluster", {})
    config["users"][0]["user"] = changed.get("user", config["users"][0]["user"])
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def storage_class(name: str, *, is_default: bool) -> dict[str, Any]:
    notes = {existing.DEFAULT_CLASS: str(is_default).lower()}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": notes},
        "provisioner": "example.com/nobody",
    }


def test_the_context_is_said_before_anything_is_asked(
    plain: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    target = context_of(plain.kubeconfig)
    assert capsys.readouterr().out == f"using context {target.name}: {plain.server}\n"


def test_a_server_that_does_not_answer_is_named(plain: Cluster, tmp_path: Path) -> None:
    away = context_of(config_of(plain, tmp_path, cluster={"server": "https://127.0.0.1:9"}))
    with pytest.raises(Missing, match=r"gives no answer.*127.0.0.1:9"):
        existing.examine(away)


def test_somebody_whom_the_server_does_not_know_is_told_so(plain: Cluster, tmp_path: Path) -> None:
    stranger = context_of(config_of(plain, tmp_path, user={"token": "invented"}))
    with pytest.raises(Missing, match=r"gives no answer: .*logged in"):
        existing.examine(stranger)


def test_without_kuberay_the_command_is_told_that_installs_it(plain: Cluster) -> None:
    with pytest.raises(Missing, match=r"helm upgrade --install kuberay-operator .*--version 1.6.2"):
        existing.examine(context_of(plain.kubeconfig))


def test_somebody_with_few_rights_is_told_which_are_lacking(
    plain: Cluster, equipped: Target, bare: Kube, tmp_path: Path
) -> None:
    bare.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": USER})
    rights = ("--verb=create,patch", f"--resource={CLAIMS}")
    bare.run("create", "clusterrole", "claims", *rights)
    account = f"--serviceaccount={USER['namespace']}:{USER['name']}"
    bare.run("create", "clusterrolebinding", "claims", "--clusterrole=claims", account)
    token = bare.run("create", "token", USER["name"], "-n", USER["namespace"]).strip()
    somebody = context_of(config_of(plain, tmp_path, user={"token": token}))
    with pytest.raises(Missing, match="may not") as refused:
        existing.examine(somebody)
    assert f"patch deployments in {NAMESPACE}" in str(refused.value)
    assert "create customresourcedefinitions," in str(refused.value)
    assert "persistentvolumeclaims" not in str(refused.value)


def test_without_storage_the_variable_is_told(equipped: Target) -> None:
    with pytest.raises(Missing, match=r"STORAGE_CLASS=NAME .*there are: none"):
        existing.examine(equipped)


def test_the_default_class_serves_and_another_can_be_named(stored: Target, bare: Kube) -> None:
    bare.apply(storage_class("other", is_default=False))
    assert existing.examine(stored).storage_class == "plenty"
    assert existing.examine(stored, "other").storage_class == "other"
    with pytest.raises(Missing, match=r"no storage class absent .*other, plenty"):
        existing.examine(stored, "absent")


def test_an_operator_of_somebody_elses_is_left_alone(stored: Target) -> None:
    install_chart(stored, {}, "elsewhere")
    for verb in (existing.examine, existing.remove):
        with pytest.raises(WrongUse, match="operator in namespace elsewhere"):
            verb(stored)
    uninstall_chart(stored, "elsewhere")
    existing.examine(stored)


def test_an_example_of_somebody_elses_is_left_alone(stored: Target, bare: Kube) -> None:
    install_chart(stored, dev_values())
    job = small_job("default", "quickstart")
    bare.apply(job)
    with pytest.raises(WrongUse, match="the demo did not make"):
        existing.examine(stored)
    bare.delete(JOBS, "quickstart", "default")
    existing.examine(stored)


def test_down_removes_what_the_demo_made_and_nothing_else(
    plain: Cluster, stored: Target, bare: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = replace(existing.examine(stored), images=existing.images_in("host/team"))
    install_chart(target, dev_values(target.images))
    claim, job = example.fit(example.read_documents(), target)
    theirs = {**claim, "metadata": {"name": "theirs", "namespace": "default"}}
    bare.apply(small_job("default", "theirs"), theirs)
    bare.run("apply", "-n", "default", "-f", "-", stdin=json.dumps(claim))
    bare.run("apply", "-n", "default", "-f", "-", stdin=json.dumps(job))
    # Here is no controller that would let go of a claim that nobody uses.
    bare.patch(CLAIMS, claim["metadata"]["name"], {"metadata": {"finalizers": None}}, "default")
    monkeypatch.setenv("CLUSTER", EXISTING)
    monkeypatch.setenv("KUBECONFIG", str(plain.kubeconfig))
    assert "are removed" in chosen.down("demo")
    for each in (JOBS, CLAIMS):
        assert [o["metadata"]["name"] for o in bare.list(each, "default")] == ["theirs"]
    assert bare.find("deployment", RELEASE, NAMESPACE) is None
    assert bare.get("namespace", NAMESPACE)
    assert "are removed" in chosen.down("demo"), "a second time there is nothing to do"


def test_the_context_stays_the_one_that_was_said(
    plain: Cluster, stored: Target, tmp_path: Path
) -> None:
    path = config_of(plain, tmp_path)
    target = context_of(path)
    config = json.loads(path.read_text())
    away = {"name": "away", "cluster": {"server": "https://127.0.0.1:9"}}
    config["clusters"].append(away)
    config["contexts"].append({"name": "away", "context": {"cluster": "away", "user": "away"}})
    config["users"].append({"name": "away", "user": {"token": "any"}})
    path.write_text(json.dumps({**config, "current-context": "away"}))
    assert NAMESPACE in run(target, "kubectl", "get", "namespaces")
    run(target, "helm", "list", "-A")
    run(target, sys.executable, "-m", "deepspeed_operator.cli", "list", "-A")
    with pytest.raises(Refused, match=r"127\.0\.0\.1:9"):
        Kube({**target.environment, "KUBECONFIG": str(path)}).run("get", "namespaces")


def test_an_api_server_takes_what_a_kind_cluster_is_given(bare: Kube, tmp_path: Path) -> None:
    objects = manifests.storage(Path(kind.VOLUMES))
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    said = bare.run(
        "apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(listed)
    )
    assert said.count("serverside-applied") == manifests.VOLUMES + 1


def test_the_demo_ends_with_the_sentence(plain: Cluster, tmp_path: Path) -> None:
    path = config_of(plain, tmp_path, cluster={"server": "https://127.0.0.1:9"})
    environment = {**plain.environment, "CLUSTER": EXISTING, "KUBECONFIG": str(path)}
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"], cwd=ROOT, env=environment, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("demo: the cluster of context ")
    assert "Traceback" not in done.stderr
