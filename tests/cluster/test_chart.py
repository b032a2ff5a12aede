"""The chart: what it renders, what it refuses, and that a real API server takes it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from devcluster.cluster import Cluster
from tests.support.installed import USER
from tests.support.kube import Kube, Refused
from tools.install import CHART, NAMESPACE, RELEASE, CommandFailed, helm

REFUSED = {
    "a value that does not exist": ({"replicas": 2}, "replicas"),
    "a misspelled value further in": ({"image": {"repo": "x"}}, "image"),
    "an unknown log level": ({"log": {"level": "info"}}, "level"),
    "an interval of nothing": ({"progressIntervalSeconds": 0}, "progressIntervalSeconds"),
    "a namespace that cannot be one": ({"watchNamespaces": ["A_B"]}, "watchNamespaces"),
    "an unknown pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
}


def manifests(cluster: Cluster, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chart's objects."""
    text = helm(cluster, "template", RELEASE, str(CHART), "-n", NAMESPACE, values=values)
    return [found for found in yaml.safe_load_all(text) if found]


def rendered(cluster: Cluster, values: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The chart's objects by kind and name."""
    return {(o["kind"], o["metadata"]["name"]): o for o in manifests(cluster, values)}


def pod_of(cluster: Cluster, values: Mapping[str, Any]) -> Any:
    return rendered(cluster, values)["Deployment", RELEASE]["spec"]["template"]


def cluster_rights(objects: Mapping[tuple[str, str], Any]) -> list[str]:
    """What the operator's own ClusterRole grants, as `verb resource`."""
    rules = objects.get(("ClusterRole", f"{NAMESPACE}:{RELEASE}"), {"rules": []})["rules"]
    return [f"{v} {r}" for rule in rules for r in rule["resources"] for v in rule["verbs"]]


def test_the_chart_has_no_lint(cluster: Cluster) -> None:
    assert "0 chart(s) failed" in helm(cluster, "lint", "--strict", str(CHART))


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_by_its_name(cluster: Cluster, case: str) -> None:
    values, name = REFUSED[case]
    with pytest.raises(CommandFailed, match=name):
        rendered(cluster, values)


def test_every_value_is_described(cluster: Cluster) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) == {*defaults, "global"}
    assert all(part["description"] for part in schema["properties"].values())


def test_by_default_the_operator_reads_no_secret_but_its_own(cluster: Cluster) -> None:
    objects = rendered(cluster, {})
    assert [right for right in cluster_rights(objects) if "secrets" in right] == ["create secrets"]
    reads = [
        rule
        for (kind, _), found in objects.items()
        if kind in ("Role", "ClusterRole")
        for rule in found["rules"]
        if "secrets" in rule["resources"] and set(rule["verbs"]) - {"create"}
    ]
    assert [rule["resourceNames"] for rule in reads] == [["deepspeed-operator-key"]]


def test_with_named_namespaces_only_nodes_are_read_cluster_wide(cluster: Cluster) -> None:
    values = {"watchNamespaces": ["a", "b"]}
    assert cluster_rights(rendered(cluster, values)) == ["list nodes"]
    bound = [
        found["metadata"]["namespace"]
        for found in manifests(cluster, values)
        if found["kind"] == "RoleBinding"
    ]
    assert sorted(bound) == ["a", "b", NAMESPACE]


def test_without_the_capacity_check_no_cluster_wide_right_is_left(cluster: Cluster) -> None:
    objects = rendered(cluster, {"watchNamespaces": ["a"], "capacityCheck": False})
    assert ("ClusterRole", f"{NAMESPACE}:{RELEASE}") not in objects
    assert ("ClusterRoleBinding", f"{NAMESPACE}:{RELEASE}") not in objects


PLACED = {
    "nodeSelector": ({"nodeSelector": {"pool": "cpu"}}, {"pool": "cpu"}),
    "tolerations": ({"tolerations": [{"operator": "Exists"}]}, [{"operator": "Exists"}]),
    "affinity": ({"affinity": {"nodeAffinity": {}}}, {"nodeAffinity": {}}),
    "priorityClassName": ({"priorityClassName": "high"}, "high"),
    "imagePullSecrets": ({"imagePullSecrets": [{"name": "s"}]}, [{"name": "s"}]),
    "serviceAccountName": ({"serviceAccount": {"name": "other"}}, "other"),
}


@pytest.mark.parametrize("field", PLACED)
def test_a_pod_value_reaches_the_pod(cluster: Cluster, field: str) -> None:
    values, expected = PLACED[field]
    assert field == "serviceAccountName" or field not in pod_of(cluster, {})["spec"]
    assert pod_of(cluster, values)["spec"][field] == expected


SETTINGS = {
    "DSJOB_TRAINER_IMAGE": ({"trainerImage": "r/t:1"}, "r/t:1"),
    "DSJOB_INJECTOR_IMAGE": ({"image": {"repository": "r/o", "tag": "2"}}, "r/o:2"),
    "DSJOB_WATCH_NAMESPACES": ({"watchNamespaces": ["a", "b"]}, "a,b"),
    "DSJOB_PROGRESS_INTERVAL_SECONDS": ({"progressIntervalSeconds": 7}, "7"),
    "DSJOB_CAPACITY_CHECK": ({"capacityCheck": False}, "false"),
    "DSJOB_LOG_LEVEL": ({"log": {"level": "DEBUG"}}, "DEBUG"),
    "DSJOB_LOG_FORMAT": ({"log": {"format": "text"}}, "text"),
}


def test_injection_can_be_turned_off(cluster: Cluster) -> None:
    [container] = pod_of(cluster, {"injectTrainer": False})["spec"]["containers"]
    assert {e["name"]: e.get("value") for e in container["env"]}["DSJOB_INJECTOR_IMAGE"] == ""


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_reaches_the_operator(cluster: Cluster, name: str) -> None:
    values, expected = SETTINGS[name]
    [container] = pod_of(cluster, values)["spec"]["containers"]
    assert {e["name"]: e.get("value") for e in container["env"]}[name] == expected


def test_image_labels_annotations_and_resources_reach_the_pod(cluster: Cluster) -> None:
    values = {
        "image": {"repository": "r/o", "tag": "2", "pullPolicy": "Never"},
        "podLabels": {"team": "a"},
        "podAnnotations": {"note": "b"},
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}},
    }
    pod = pod_of(cluster, values)
    [container] = pod["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("r/o:2", "Never")
    assert container["resources"] == values["resources"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["annotations"] == {"note": "b"}


def test_an_account_that_is_there_is_not_created(cluster: Cluster) -> None:
    objects = rendered(cluster, {"serviceAccount": {"create": False, "name": "other"}})
    assert not [name for kind, name in objects if kind == "ServiceAccount"]


def test_the_pod_passes_restricted_pod_security(cluster: Cluster, kube: Kube) -> None:
    with kube.namespace("restricted") as namespace:
        pod = pod_of(cluster, {})
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "operator", "namespace": namespace},
            "spec": {**pod["spec"], "serviceAccountName": "default"},
        }
        kube.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
        del body["spec"]["containers"][0]["securityContext"]
        with pytest.raises(Refused, match="PodSecurity"):
            kube.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))


def test_the_standard_roles_cover_jobs(chart: None, kube: Kube, namespace: str) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    for role in ("view", "edit"):
        kube.apply({**account, "metadata": {"name": role, "namespace": namespace}})
        who = f"{namespace}:{role}"
        kube.run(
            "create", "rolebinding", role, "-n", namespace,
            f"--clusterrole={role}", f"--serviceaccount={who}",
        )  # fmt: skip
    can = {
        (role, verb): _may(kube, f"system:serviceaccount:{namespace}:{role}", verb, namespace)
        for role in ("view", "edit")
        for verb in ("get", "create", "delete")
    }
    assert can == {
        ("view", "get"): True, ("view", "create"): False, ("view", "delete"): False,
        ("edit", "get"): True, ("edit", "create"): True, ("edit", "delete"): True,
    }  # fmt: skip


def test_the_operator_may_not_read_its_users_secrets(
    chart: None, kube: Kube, namespace: str
) -> None:
    operator = kube.as_user(USER)
    for verb, kind, expected in (
        ("create", "secrets", "yes"),
        ("get", "secrets", "no"),
        ("list", "secrets", "no"),
        ("create", "pods", "no"),
        ("patch", "deepspeedjobs.dsjob.dev", "no"),
    ):
        answer = _can_i(operator, verb, kind, namespace)
        assert answer == expected, f"{verb} {kind}"


def _may(kube: Kube, user: str, verb: str, namespace: str) -> bool:
    return _can_i(kube.as_user(user), verb, "deepspeedjobs.dsjob.dev", namespace) == "yes"


def _can_i(kube: Kube, verb: str, kind: str, namespace: str) -> str:
    """kubectl's own answer; it exits with 1 for a no."""
    try:
        return kube.run("auth", "can-i", verb, kind, "-n", namespace).strip()
    except Refused as refusal:
        return str(refusal).rpartition(": ")[2].strip()
