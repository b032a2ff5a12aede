"""The hands that pods need where no kubelet runs: they let pods run, wait, fail and go.

    with Hands(cluster) as hands:
        hands.play(namespace)                 # pods run as soon as they are placed
        hands.play(namespace, waits_for("ErrImageNeverPull", "not here"))
        hands.head_of(namespace, raycluster)  # the stand-in head of this RayCluster

Nodes are objects with a heartbeat, so that the real scheduler places pods and the real controllers
trust them. A head pod gets a stand-in head with the token of the Secret that its environment
names; as with a kubelet, no Secret means no container.
"""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from devcluster.api import ApiClient
from devcluster.cluster import Cluster
from devcluster.errors import Refused
from tests.support.eventually import eventually
from tests.support.head import Head, Listener, Run

Object = dict[str, Any]
Behaviour = Callable[[Object], Object | None]
"""From a pod to the status that its kubelet would show; None for the ordinary one."""

NODES = ("hands-0", "hands-1", "hands-2")
ROOM = {"cpu": "1k", "memory": "4Ti", "pods": "1k"}
JOB_LABEL = "dsjob.dev/job-name"
ANY = ""
LOOK_S = 0.1
HEARTBEAT_S = 3.0
CHANGED_MEANWHILE = (404, 409)


def runs(pod: Object) -> None:
    """The pod's containers run and are ready."""


def waits_for(reason: str, message: str) -> Behaviour:
    """The pod's containers wait for this reason."""
    return lambda pod: _status(pod, "Pending", {"waiting": {"reason": reason, "message": message}})


def ends_with(code: int, reason: str = "Error") -> Behaviour:
    """The pod's containers ended with this exit code."""
    state = {"terminated": {"exitCode": code, "reason": reason}}
    return lambda pod: _status(pod, "Succeeded" if code == 0 else "Failed", state)


@dataclass(frozen=True, slots=True)
class _Part:
    """How the pods of a namespace behave."""

    behaviour: Behaviour
    on_submission: Listener


class Hands:
    """Plays all kubelets of a cluster without nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._api = cluster.control_plane.api()
        self._parts: dict[tuple[str, str], _Part] = {}
        self._shown: dict[str, Object] = {}
        self._heads: dict[str, tuple[Object, Head]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        make_nodes(self._api, dict.fromkeys(NODES, ROOM))
        self._thread.start()
        eventually(lambda: self._check() and not self._taints(), "the nodes are trusted")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for _pod, head in self._heads.values():
            head.close()
        for name in NODES:
            self._api.request("DELETE", f"/api/v1/nodes/{name}")
        self._check()

    def play(
        self,
        namespace: str,
        behaviour: Behaviour = runs,
        on_submission: Listener = Run.go_on,
        *,
        job: str = ANY,
    ) -> None:
        """From now on, pods of this namespace (or of one job there) behave so; others wait."""
        self._parts[namespace, job] = _Part(behaviour, on_submission)

    def head_of(self, namespace: str, raycluster: str) -> Head:
        """The head of a RayCluster, as soon as there is one."""
        return eventually(
            lambda: self._find_head(namespace, raycluster), f"RayCluster {raycluster} has a head"
        )

    def heads_of_job(self, namespace: str, job: str) -> list[Head]:
        """Every head that a job ever had, those that are gone included."""
        return [
            head
            for pod, head in list(self._heads.values())
            if (_namespace(pod), pod["metadata"]["labels"].get(JOB_LABEL)) == (namespace, job)
        ]

    def pods(self, namespace: str, raycluster: str) -> list[Object]:
        """The pods of a RayCluster as they are now."""
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=ray.io/cluster={raycluster}"
        found: list[Object] = self._api.get(path)["items"]
        return found

    def _find_head(self, namespace: str, raycluster: str) -> Head:
        self._check()
        for pod in self.pods(namespace, raycluster):
            if pod["metadata"]["uid"] in self._heads:
                return self._heads[pod["metadata"]["uid"]][1]
        raise LookupError(raycluster)

    def _check(self) -> bool:
        """Raise what ended the work, if anything did."""
        if self._error is not None:
            raise RuntimeError("the hands stopped working") from self._error
        return True

    def _taints(self) -> list[Object]:
        nodes = self._api.get("/api/v1/nodes")["items"]
        return [taint for node in nodes for taint in node["spec"].get("taints", [])]

    def _work(self) -> None:
        heartbeat_at = 0.0
        try:
            while not self._ended.wait(LOOK_S):
                if time.monotonic() - heartbeat_at > HEARTBEAT_S:
                    heartbeat_at = time.monotonic()
                    for name in NODES:
                        _beat(self._api, name)
                self._look()
        except Exception as error:  # noqa: BLE001  it is raised where the test waits
            self._error = error

    def _look(self) -> None:
        pods = self._api.get("/api/v1/pods?labelSelector=ray.io/cluster")["items"]
        living = {pod["metadata"]["uid"] for pod in pods}
        for uid, (_, head) in self._heads.items():
            if uid not in living:
                head.close()
        for pod in pods:
            try:
                self._touch(pod)
            except Refused as refusal:
                # It changed since it was listed; the next look sees how.
                if refusal.status not in CHANGED_MEANWHILE:
                    raise

    def _touch(self, pod: Object) -> None:
        part = self._find_part(pod)
        if "deletionTimestamp" in pod["metadata"]:
            self._let_go(pod)
        elif part is not None and "nodeName" in pod["spec"]:
            status = part.behaviour(pod) or self._run(pod, part)
            if self._shown.get(pod["metadata"]["uid"]) != status:
                self._api.merge(f"{_path(pod)}/status", {"status": status})
                self._shown[pod["metadata"]["uid"]] = status

    def _find_part(self, pod: Object) -> _Part | None:
        job = pod["metadata"]["labels"].get(JOB_LABEL, ANY)
        in_general = self._parts.get((_namespace(pod), ANY))
        return self._parts.get((_namespace(pod), job), in_general)

    def _let_go(self, pod: Object) -> None:
        if pod["metadata"]["uid"] in self._heads:
            self._heads[pod["metadata"]["uid"]][1].close()
        now = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self._api.request("DELETE", _path(pod), now, "application/json")

    def _run(self, pod: Object, part: _Part) -> Object:
        address = "10.0.0.1"  # Workers are never called.
        if pod["metadata"]["labels"]["ray.io/node-type"] == "head":
            token = self._read_token(pod)
            if token is None:
                missing = waits_for("CreateContainerConfigError", "its Secret is not found")
                return missing(pod) or {}
            address = self._open_head(pod, token, part).address
        status = _status(pod, "Running", {"running": {}}, ready=True)
        return {**status, "podIP": address, "podIPs": [{"ip": address}]}

    def _open_head(self, pod: Object, token: str, part: _Part) -> Head:
        uid = pod["metadata"]["uid"]
        if uid not in self._heads:
            self._heads[uid] = pod, Head(token, part.on_submission)
        return self._heads[uid][1]

    def _read_token(self, pod: Object) -> str | None:
        """What the kubelet would put into Ray's environment; None when there is no such Secret."""
        [entry] = [
            entry["valueFrom"]["secretKeyRef"]
            for entry in pod["spec"]["containers"][0]["env"]
            if entry["name"] == "RAY_AUTH_TOKEN"
        ]
        try:
            path = f"/api/v1/namespaces/{_namespace(pod)}/secrets/{entry['name']}"
            secret = self._api.get(path)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise
        return base64.b64decode(secret["data"][entry["key"]]).decode()


def make_nodes(api: ApiClient, offers: dict[str, Object]) -> None:
    """Nodes as their kubelets register them, each with what it offers."""
    for name, offer in offers.items():
        labels = {"kubernetes.io/hostname": name}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        try:
            api.create(body)
        except Refused as refusal:
            # A run that was broken off left it behind on a cluster that is kept.
            if refusal.status != 409:
                raise
        status = {"capacity": offer, "allocatable": offer}
        api.merge(f"/api/v1/nodes/{name}/status", {"status": status})


def _beat(api: ApiClient, node: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")  # noqa: TID251  a kubelet has a clock
    ready = {
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hands",
        "lastHeartbeatTime": now,
    }  # fmt: skip
    api.merge(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [ready]}})


def _status(pod: Object, phase: str, state: Object, *, ready: bool = False) -> Object:
    containers = [
        {
            "name": container["name"], "image": container["image"], "imageID": "",
            "ready": ready, "started": ready, "restartCount": 0, "state": state,
        }
        for container in pod["spec"]["containers"]
    ]  # fmt: skip
    word = "True" if ready else "False"
    conditions = [{"type": kind, "status": word} for kind in ("ContainersReady", "Ready")]
    placed = {"type": "PodScheduled", "status": "True"}
    return {
        "phase": phase,
        "containerStatuses": containers,
        "conditions": [placed, *conditions],
    }


def _namespace(pod: Object) -> str:
    return str(pod["metadata"]["namespace"])


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{_namespace(pod)}/pods/{pod['metadata']['name']}"
