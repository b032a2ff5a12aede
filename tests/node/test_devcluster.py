"""The dev cluster itself: what one expects of Kubernetes holds, and nothing of it stays behind."""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import cluster as clusters
from devcluster import groups, imagebuild, network, processes, remains
from devcluster.cluster import Cluster, Options
from devcluster.imagebuild import Recipe
from devcluster.steps import run_steps
from tests.support.cluster import fresh_cluster
from tests.support.eventually import eventually
from tests.support.kube import RESTRICTED, Kube, Refused, kube_of

pytestmark = pytest.mark.usefixtures("own_ground")
NAME, SECOND = "devcluster-test", "devcluster-test2"
IMAGE = "localhost/devcluster/probe:1"
SPACE = "probe"
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Our base image under another name: it has Python, which is all that these tests need."""
    folder = tmp_path_factory.mktemp("probe")
    file, context = folder / "Dockerfile", folder / "context"
    file.write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    context.mkdir()
    recipe = Recipe(IMAGE, file, context, bases={"BASE_IMAGE": "debian"})
    run_steps(imagebuild.steps(recipe), logs=folder / "logs")
    return IMAGE


@pytest.fixture(scope="module")
def mine(image: str) -> Iterator[Cluster]:
    with fresh_cluster(NAME, Options(nodes=2), [image]) as found:
        yield found


@pytest.fixture(scope="module")
def kube(mine: Cluster) -> Kube:
    return kube_of(mine)


@pytest.fixture(scope="module")
def pods(kube: Kube) -> dict[str, str]:
    """A web server on each node, with one volume and one Service: node -> pod."""
    kube.apply(*objects())
    kube.run("rollout", "status", "daemonset/web", "-n", SPACE, "--timeout=120s")
    return {p["spec"]["nodeName"]: p["metadata"]["name"] for p in kube.list("pods", SPACE)}


def container(*command: str) -> dict[str, object]:
    return {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": list(command),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def objects() -> list[dict[str, object]]:
    server = container("python3", "-u", "-m", "http.server", "8000", "--directory", "/data")
    server["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    pod = {
        "containers": [server],
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    labels = {"app": "web"}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "5Gi"}}}
    service = {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    servers = {"selector": {"matchLabels": labels}, "template": template}
    space = {"name": SPACE, "labels": RESTRICTED}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": space},
        named("v1", "PersistentVolumeClaim", "data", claim),
        named("v1", "Service", "web", service),
        named("apps/v1", "DaemonSet", "web", servers),
    ]


def named(version: str, kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    metadata = {"name": name, "namespace": SPACE}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def python(kube: Kube, pod: str, code: str) -> str:
    return kube.run("exec", "-n", SPACE, pod, "--", "python3", "-c", code).strip()


def fetch(url: str) -> str:
    return f"import urllib.request as u; print(u.urlopen('{url}', timeout=10).status)"


def test_both_nodes_are_ready_and_every_component_runs(mine: Cluster, kube: Kube) -> None:
    assert mine.ailments() == []
    assert {node["metadata"]["name"] for node in kube.list("nodes")} == {"node0", "node1"}


def test_a_claim_is_writable_by_an_ordinary_user_from_both_nodes(
    kube: Kube, pods: dict[str, str]
) -> None:
    python(kube, pods["node0"], "open('/data/from0', 'w').write('0')")
    python(kube, pods["node1"], "open('/data/from1', 'w').write('1')")
    told = python(
        kube, pods["node0"], "import os; print(os.getuid(), *sorted(os.listdir('/data')))"
    )
    assert told == "1000 from0 from1"


def test_pods_reach_each_other_across_nodes_and_by_service_name(
    kube: Kube, pods: dict[str, str]
) -> None:
    other = kube.get("pod", pods["node1"], SPACE)["status"]["podIP"]
    own = kube.get("pod", pods["node0"], SPACE)["status"]["podIP"]
    for host in (f"{other}:8000", f"{own}:8000", "web", f"web.{SPACE}.svc.cluster.local"):
        assert python(kube, pods["node0"], fetch(f"http://{host}/")) == "200", host


def test_the_host_reaches_pods_and_services(kube: Kube, pods: dict[str, str]) -> None:
    service = kube.get("service", "web", SPACE)["spec"]["clusterIP"]
    for host in (service, f"{kube.get('pod', pods['node1'], SPACE)['status']['podIP']}:8000"):
        with urllib.request.urlopen(f"http://{host}/", timeout=10) as answer:
            assert answer.status == 200


def test_logs_of_a_pod_can_be_read(kube: Kube, pods: dict[str, str]) -> None:
    python(kube, pods["node1"], fetch("http://127.0.0.1:8000/"))
    assert "GET / HTTP" in kube.run("logs", "-n", SPACE, pods["node1"])


def test_a_port_can_be_forwarded_to_a_pod(mine: Cluster, pods: dict[str, str]) -> None:
    command = ["kubectl", "port-forward", "-n", SPACE, pods["node1"], ":8000"]
    environment = {**os.environ, **mine.environment}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout is not None
        try:
            told = forward.stdout.readline()
            port = re.search(r"127\.0\.0\.1:(\d+)", told)
            assert port is not None, told
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/", timeout=10) as answer:
                assert answer.status == 200
        finally:
            forward.terminate()


def test_what_a_service_account_asks_is_in_the_audit_log(
    mine: Cluster, kube: Kube, pods: dict[str, str]
) -> None:
    path = f"/api/v1/namespaces/{SPACE}/pods/web-0/status"
    code = f"""
import ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
known = ssl.create_default_context(cafile=folder + "/ca.crt")
who = {{"Authorization": "Bearer " + open(folder + "/token").read()}}
try:
    call = urllib.request.Request("https://kubernetes.default{path}", headers=who)
    urllib.request.urlopen(call, context=known)
except urllib.error.HTTPError as error:
    print(error.code)
"""
    assert python(kube, pods["node0"], code) == "403"
    found = [
        line
        for line in map(json.loads, mine.audit_log.read_text().splitlines())
        if line["user"]["username"] == f"system:serviceaccount:{SPACE}:default"
    ]
    assert len(found) == 1
    entry = found[0]
    assert (entry["verb"], entry["requestURI"]) == ("get", path)
    assert entry["responseStatus"]["code"] == 403
    wanted = {"resource": "pods", "subresource": "status", "name": "web-0", "namespace": SPACE}
    assert wanted.items() <= entry["objectRef"].items()


def test_a_stranger_may_read_nothing(mine: Cluster, kube: Kube) -> None:
    with pytest.raises(Refused, match=r"anonymous|logged in"):
        Kube({**mine.environment, "KUBECONFIG": "/dev/null"}).run(
            "get", "nodes", f"--server={mine.server}",
            f"--certificate-authority={mine.folder / 'pki' / 'ca.crt'}",
            "--username=", "--token=stranger",
        )  # fmt: skip


def test_a_node_may_not_change_another_node(mine: Cluster) -> None:
    config = str(mine.folder / "pki" / "node0.kubeconfig")
    with pytest.raises(Refused, match="only its own Node object"):
        Kube({**mine.environment, "KUBECONFIG": config}).run("label", "node", "node1", "stolen=yes")


def test_up_again_changes_nothing(mine: Cluster) -> None:
    before = [processes.recorded(mine.home, name) for name in mine.components()]
    assert clusters.up(NAME, Options(nodes=2), [IMAGE], quiet=True) == mine
    assert [processes.recorded(mine.home, name) for name in mine.components()] == before


def test_a_volume_without_its_claim_is_emptied_and_offered_again(mine: Cluster, kube: Kube) -> None:
    claim = named("v1", "PersistentVolumeClaim", "short", {
        "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}},
    })  # fmt: skip
    kube.apply(claim)

    def volume() -> str:
        return str(kube.get("pvc", "short", SPACE)["spec"].get("volumeName", ""))

    name = eventually(volume, "the claim is bound")
    folder = mine.control_plane.volumes / name
    (folder / "rubbish").touch()
    kube.delete("pvc", "short", SPACE)
    eventually(lambda: kube.get("pv", name)["status"]["phase"] == "Released", "it is released")
    assert mine.recycle_volumes() == 1
    eventually(lambda: kube.get("pv", name)["status"]["phase"] == "Available", "it is offered")
    assert list(folder.iterdir()) == []


def test_a_second_cluster_runs_beside_with_settings_of_its_own_and_leaves_nothing_after_a_crash(
    mine: Cluster, kube: Kube
) -> None:
    second = clusters.up(SECOND, Options(nodes=1, detection="stock"), [IMAGE])
    try:
        assert detection_of(second) == ("50s", "10s")
        start_sleeper(kube_of(second))
        assert mine.ailments() == []
        assert {node["metadata"]["name"] for node in kube.list("nodes")} == {"node0", "node1"}
        for program in ("containerd-node0", "kubelet-node0", "kube-apiserver"):
            victim = processes.recorded(second.home, program)
            assert victim is not None
            os.kill(victim.pid, signal.SIGKILL)
        assert second.ailments()
        assert traces(second), "the search would find nothing anyway"
    finally:
        assert clusters.down(SECOND)
    assert traces(second) == []
    assert not remains.find(SECOND, second.place)
    assert clusters.find(SECOND) is None
    assert mine.ailments() == []


def detection_of(cluster: Cluster) -> tuple[str, str]:
    """The grace period that the controller manager gives, and how often a kubelet looks."""
    kubelet = cluster.control_plane.api().get("/api/v1/nodes/node0/proxy/configz")
    port = cluster.place.port("kube-controller-manager")
    controllers = cluster.control_plane.client_of(port).get("/configz")
    lifecycle = controllers["kubecontrollermanager.config.k8s.io"]["NodeLifecycleController"]
    frequency = kubelet["kubeletconfig"]["nodeStatusUpdateFrequency"]
    return lifecycle["NodeMonitorGracePeriod"], frequency


def start_sleeper(kube: Kube) -> None:
    metadata = {"name": "sleeper", "namespace": "default"}
    spec = {"containers": [container("sleep", "3600")], "securityContext": POD_SECURITY}
    service_account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default"},
    }
    eventually(lambda: kube.find("serviceaccount", "default", "default"), str(service_account))
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    kube.run("wait", "pod/sleeper", "--for=condition=Ready", "--timeout=120s")


def traces(cluster: Cluster) -> list[str]:
    """What the machine still knows of a cluster, looked for without devcluster's own means."""
    own = [str(folder) for folder in remains.folders_of(cluster.name)]
    found = [folder for folder in own if Path(folder).exists()]
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [words.replace("\0", " ") for folder in own if f"{folder}/" in words]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if any(f"{folder}/" in line for folder in own)]
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    found += re.findall(rf"\b{cluster.place.bridge}(?:n\d)?\b.*", links)
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    ours = (
        cluster.place.node_network,
        cluster.place.pod_network_of(0),
        cluster.place.service_network,
    )
    found += [line for line in routes.splitlines() if line.startswith(ours)]
    spaces = Path("/run/netns")
    found += [
        str(path) for path in spaces.glob("*") if network.namespace_of(cluster.name, 0) == path.name
    ]
    found += [
        str(p) for tree in groups.hierarchies() for p in tree.glob(groups.group_of(cluster.name))
    ]
    found += [
        str(p) for p in Path("/var/log/containers").glob("*") if str(p.resolve()).startswith(own[0])
    ]
    return found


def test_a_cluster_that_is_not_there_is_an_error_that_names_those_that_are(mine: Cluster) -> None:
    with pytest.raises(clusters.WrongUse, match=NAME):
        clusters.get("nowhere")


def test_other_options_for_a_running_cluster_are_refused(mine: Cluster) -> None:
    with pytest.raises(clusters.WrongUse, match="run down before"):
        clusters.up(NAME, Options(nodes=1), quiet=True)
