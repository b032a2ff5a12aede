"""What the verbs on nodes do, seen through the API server, from the host and in the pods."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from devcluster import cluster as clusters
from devcluster import faults, groups, processes, remains, report
from devcluster.__main__ import main
from devcluster.cluster import Cluster, Options
from devcluster.errors import StepFailed
from devcluster.faults import Faults
from tests.node.test_devcluster import IMAGE, detection_of, image
from tests.support.cluster import fresh_cluster
from tests.support.eventually import eventually
from tests.support.kube import Kube, kube_of

__all__ = ["image"]

pytestmark = pytest.mark.usefixtures("own_ground")
NAME = "verbs-test"
PORT, SIZE_BYTES = 8000, 4_000_000
CORES, MBIT_S = 0.3, 8
# Serves zeros, and shows in a file on the host that it is alive.
PROGRAM = f"""
import http.server, itertools, os, pathlib, threading, time
class Zeros(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes({SIZE_BYTES}))
serve = http.server.ThreadingHTTPServer(("", {PORT}), Zeros).serve_forever
threading.Thread(target=serve, daemon=True).start()
for count in itertools.count():
    pathlib.Path("/seen", os.environ["NODE"]).write_text(str(count))
    time.sleep(0.1)
"""
SPIN = """
import time
began, used = time.monotonic(), time.process_time()
while time.monotonic() < began + 2:
    pass
print((time.process_time() - used) / (time.monotonic() - began))
"""


@pytest.fixture(scope="module")
def mine(image: str) -> Iterator[Cluster]:
    with fresh_cluster(NAME, Options(nodes=2), [image]) as found:
        yield found


@pytest.fixture(scope="module")
def kube(mine: Cluster) -> Kube:
    return kube_of(mine)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the host in which each pod shows that it is alive."""
    return tmp_path_factory.mktemp("seen")


@pytest.fixture(scope="module")
def pods(kube: Kube, seen: Path) -> dict[str, str]:
    """A pod on each node: node -> address."""
    eventually(lambda: kube.find("serviceaccount", "default", "default"), "pods may be made")
    kube.apply(*(pod(f"node{index}", seen) for index in range(2)))
    for index in range(2):
        kube.run("wait", f"pod/on-node{index}", "--for=condition=Ready", "--timeout=120s")
    return {p["spec"]["nodeName"]: p["status"]["podIP"] for p in kube.list("pods", "default")}


def pod(node: str, seen: Path) -> dict[str, object]:
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-u", "-c", PROGRAM],
        "env": [{"name": "NODE", "value": node}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}},
        "volumeMounts": [{"name": "seen", "mountPath": "/seen"}],
    }
    ever = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
        for what in ("not-ready", "unreachable")
    ]
    spec = {
        "nodeName": node,
        "containers": [container],
        "tolerations": ever,
        "volumes": [{"name": "seen", "hostPath": {"path": str(seen)}}],
    }
    metadata = {"name": f"on-{node}", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def do(verb: str, *words: str) -> None:
    """Call the command line."""
    done = CliRunner().invoke(main, [verb, "--name", NAME, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def is_ready(kube: Kube, node: str) -> bool:
    found = kube.get("node", node)["status"]["conditions"]
    return next(each["status"] for each in found if each["type"] == "Ready") == "True"


def is_alive(seen: Path, node: str, *, within_s: float = 30) -> bool:
    before = (seen / node).read_text()

    def counts() -> bool:
        return (seen / node).read_text() not in ("", before)

    try:
        eventually(counts, "it counts", within_s=within_s)
    except AssertionError:
        return False
    return True


def state(cluster: Cluster, node: str) -> str:
    return next(n["state"] for n in report.describe(cluster)["nodes"] if n["name"] == node)


def test_a_node_without_power_is_silent_until_it_is_started_again(
    mine: Cluster, kube: Kube, pods: dict[str, str], seen: Path
) -> None:
    before = kube.get("node", "node1")
    with socket.create_connection((pods["node1"], PORT), timeout=10) as talk:
        do("stop-node", "node1")
        do("stop-node", "node1")
        talk.settimeout(1)
        with pytest.raises(TimeoutError):
            talk.recv(1)  # neither a goodbye nor a reset, as from a process that was killed
    assert groups.remaining_groups(mine.node("node1").group) == []
    assert list(processes.owned_by(mine.node("node1").folder)) == []
    assert not is_alive(seen, "node1", within_s=3)
    assert is_alive(seen, "node0")
    assert state(mine, "node1") == "stopped"
    eventually(lambda: not is_ready(kube, "node1"), "its loss is noticed", within_s=180)

    do("start-node", "node1")
    do("start-node", "node1")
    assert is_ready(kube, "node1")
    assert mine.ailments() == []
    after = kube.get("node", "node1")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["addresses"] == before["status"]["addresses"]
    eventually(lambda: is_alive(seen, "node1"), "its pod was started again", within_s=120)
    eventually(lambda: answers(address_of(kube, "on-node1")), "its pod is reached again")


def address_of(kube: Kube, pod: str) -> str:
    return str(kube.get("pod", pod, "default")["status"]["podIP"])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:{PORT}/", timeout=10) as answer:
            return len(answer.read()) == SIZE_BYTES
    except OSError:
        return False


def test_a_partitioned_node_is_not_ready_while_its_pods_go_on(
    mine: Cluster, kube: Kube, pods: dict[str, str], seen: Path
) -> None:
    uid = kube.get("pod", "on-node0", "default")["metadata"]["uid"]
    for _ in range(2):
        do("partition-node", "node0")
    assert state(mine, "node0") == "partitioned"
    with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
        socket.create_connection((pods["node0"], PORT), timeout=2)
    eventually(lambda: not is_ready(kube, "node0"), "its loss is noticed", within_s=180)
    assert is_alive(seen, "node0")

    for _ in range(2):
        do("heal-node", "node0")
    assert is_ready(kube, "node0")
    assert mine.ailments() == []
    assert answers(pods["node0"])
    found = kube.get("pod", "on-node0", "default")
    assert found["metadata"]["uid"] == uid
    assert found["status"]["containerStatuses"][0]["restartCount"] == 0


def cores_used(kube: Kube) -> float:
    return float(kube.run("exec", "-n", "default", "on-node0", "--", "python3", "-c", SPIN))


def test_a_slow_node_gets_no_more_processor_than_told(
    mine: Cluster, kube: Kube, pods: dict[str, str]
) -> None:
    for _ in range(2):
        do("slow-node", "node0", "--cpu", str(CORES))
    assert state(mine, "node0") == f"slow ({CORES:g} cores)"
    # A period's quota more, for what was left of the period in which it began.
    assert cores_used(kube) < CORES + 0.1
    for _ in range(2):
        do("heal-node", "node0")
    eventually(lambda: cores_used(kube) > CORES + 0.1, "it is as fast as before")


def rate_mbit_s(address: str) -> float:
    began = time.monotonic()
    assert answers(address)
    return SIZE_BYTES * 8 / 1e6 / (time.monotonic() - began)


def test_a_slow_cable_lets_no_more_through_than_told(mine: Cluster, pods: dict[str, str]) -> None:
    for _ in range(2):
        do("slow-node", "node0", "--rate-mbit", str(MBIT_S))
    assert state(mine, "node0") == f"slow ({MBIT_S} Mbit/s)"
    assert rate_mbit_s(pods["node0"]) < MBIT_S * 1.2
    for _ in range(2):
        do("heal-node", "node0")
    eventually(lambda: rate_mbit_s(pods["node0"]) > MBIT_S * 1.2, "it is as fast as before")


def test_a_stopped_node_can_only_be_started(mine: Cluster) -> None:
    do("stop-node", "node1")
    for verb in (["partition-node"], ["heal-node"], ["slow-node", "--cpu", "1"]):
        with pytest.raises(StepFailed, match="start-node --name verbs-test node1"):
            do(*verb, "node1")


def test_up_undoes_what_was_done_to_nodes_and_leaves_the_rest_alone(
    mine: Cluster, kube: Kube
) -> None:
    do("stop-node", "node1")
    do("partition-node", "node0")
    assert len(mine.ailments()) == 2
    before = processes.recorded(mine.home, "kube-apiserver")
    assert clusters.up(NAME, Options(nodes=2), quiet=True) == mine
    assert processes.recorded(mine.home, "kube-apiserver") == before
    assert mine.ailments() == []
    assert [faults.of(node) for node in mine.nodes] == [Faults(), Faults()]


def test_a_node_that_is_not_there_is_an_error_that_names_those_that_are(mine: Cluster) -> None:
    with pytest.raises(clusters.WrongUse, match="node0, node1"):
        do("stop-node", "node7")


def test_a_lost_node_is_noticed_fast_unless_asked_otherwise(mine: Cluster) -> None:
    assert detection_of(mine) == ("20s", "4s")


def test_a_cluster_goes_without_a_trace_whatever_was_done_to_its_nodes(mine: Cluster) -> None:
    do("slow-node", "node0", "--cpu", str(CORES), "--rate-mbit", str(MBIT_S))
    do("partition-node", "node0")
    do("stop-node", "node1")
    assert clusters.down(NAME)
    assert not remains.find(NAME, mine.place)
