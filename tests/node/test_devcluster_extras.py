"""What a cluster can have beside: fake nodes, Kueue and an S3 server; one cluster with all three.

Their programs take minutes to build, so these tests run with `make test-full` alone.
"""

import ipaddress
import json
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devcluster import cluster as clusters
from devcluster import fakenodes, processes, remains, s3
from devcluster.cluster import Cluster, Options
from tests.node.test_devcluster import IMAGE, image
from tests.support.cluster import fresh_cluster
from tests.support.eventually import eventually
from tests.support.kube import Kube, kube_of

__all__ = ["image"]

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("own_ground")]

NAME = "verbs-extras"
OPTIONS = Options(nodes=1, fake_nodes=3, kueue=True, s3=True)
SPACE, PODS = "default", 200
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def mine(image: str) -> Iterator[Cluster]:
    with fresh_cluster(NAME, OPTIONS, [image]) as found:
        yield found


@pytest.fixture(scope="module")
def kube(mine: Cluster) -> Kube:
    found = kube_of(mine)
    eventually(lambda: found.find("serviceaccount", "default", SPACE), "pods may be made")
    return found


def deployment(name: str, replicas: int, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "main", "image": IMAGE, "command": ["sleep", "3600"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
            },
        },
    }


@pytest.fixture(scope="module")
def crowd(kube: Kube) -> list[dict[str, Any]]:
    """Pods that select and tolerate fake nodes, all of them Ready."""
    spec = {"nodeSelector": fakenodes.LABEL, "tolerations": [fakenodes.TAINT]}
    kube.apply(deployment("crowd", PODS, **spec))
    kube.run("rollout", "status", "deployment/crowd", "-n", SPACE, "--timeout=150s")
    return kube.list("pods", SPACE, "app=crowd")


def test_pods_that_ask_for_fake_nodes_are_ready_there_with_an_address_each(
    mine: Cluster, crowd: list[dict[str, Any]]
) -> None:
    assert {pod["spec"]["nodeName"] for pod in crowd} == {"fake000", "fake001", "fake002"}
    addresses = {ipaddress.ip_address(pod["status"]["podIP"]) for pod in crowd}
    assert len(addresses) == PODS
    own = ipaddress.ip_network(mine.place.fake_pod_network)
    assert all(address in own for address in addresses)


def test_nobody_answers_at_the_address_of_a_fake_pod(crowd: list[dict[str, Any]]) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((crowd[0]["status"]["podIP"], 8265), timeout=10)


def test_a_pod_that_does_not_ask_for_fake_nodes_runs_on_a_real_one(kube: Kube) -> None:
    kube.apply(deployment("real", 3))
    kube.run("rollout", "status", "deployment/real", "-n", SPACE, "--timeout=150s")
    pods = kube.list("pods", SPACE, "app=real")
    assert [pod["spec"]["nodeName"] for pod in pods] == ["node0"] * 3


QUEUES = [
    {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ResourceFlavor",
        "metadata": {"name": "fake"},
        "spec": {"nodeLabels": fakenodes.LABEL, "tolerations": [fakenodes.TAINT]},
    },
    {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": "all"},
        "spec": {
            "namespaceSelector": {},
            "resourceGroups": [
                {
                    "coveredResources": ["cpu"],
                    "flavors": [
                        {"name": "fake", "resources": [{"name": "cpu", "nominalQuota": "3"}]}
                    ],
                }
            ],
        },
    },
    {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": "team", "namespace": SPACE},
        "spec": {"clusterQueue": "all"},
    },
]


def ray_cluster(name: str) -> dict[str, Any]:
    """A head and a worker of one core each, in the queue."""
    container = {"image": IMAGE, "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}
    head = {"spec": {"containers": [{**container, "name": "ray-head"}]}}
    worker = {"spec": {"containers": [{**container, "name": "ray-worker"}]}}
    group = {"groupName": "workers", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": name,
            "namespace": SPACE,
            "labels": {"kueue.x-k8s.io/queue-name": "team"},
        },
        "spec": {
            "suspend": True,
            "headGroupSpec": {"rayStartParams": {}, "template": head},
            "workerGroupSpecs": [{**group, "rayStartParams": {}, "template": worker}],
        },
    }


def state(kube: Kube, name: str) -> str | None:
    status = kube.get("raycluster", name, SPACE).get("status", {})
    return status.get("state")


def test_a_raycluster_within_the_quota_is_admitted_and_the_next_one_waits_for_it(
    kube: Kube,
) -> None:
    kube.apply(*QUEUES)
    kube.apply(ray_cluster("first"))
    eventually(lambda: state(kube, "first") == "ready", "the first is admitted", within_s=120)
    kube.apply(ray_cluster("second"))
    eventually(
        lambda: "insufficient unused quota" in json.dumps(workload(kube, "second")["status"]),
        "the second is told why it waits",
    )
    assert kube.get("raycluster", "second", SPACE)["spec"]["suspend"] is True
    pods = kube.list("pods", SPACE, "ray.io/cluster")
    assert {pod["metadata"]["labels"]["ray.io/cluster"] for pod in pods} == {"first"}
    assert all(pod["spec"]["nodeName"].startswith("fake") for pod in pods)

    kube.delete("raycluster", "first", SPACE)
    eventually(lambda: state(kube, "second") == "ready", "the second is admitted", within_s=120)


def workload(kube: Kube, owner: str) -> dict[str, Any]:
    """Kueue's record of a RayCluster. Raises: LookupError when there is none yet."""
    for found in kube.list("workloads.kueue.x-k8s.io", SPACE):
        if found["metadata"]["ownerReferences"][0]["name"] == owner:
            return found
    raise LookupError(owner)


def test_kueues_webhook_suspends_a_raycluster_that_forgot_to_be(kube: Kube) -> None:
    kube.apply(*QUEUES)
    forgetful = ray_cluster("forgetful")
    del forgetful["spec"]["suspend"]
    words = ("apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-")
    made = json.loads(kube.run(*words, stdin=json.dumps(forgetful)))
    assert made["spec"]["suspend"] is True


def client_of(cluster: Cluster, **changed: str) -> Any:
    """An ordinary client of the S3 server. boto3 is there for `make test-full` alone."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    known = {**s3.environment(cluster.folder), **changed}
    return boto3.client(
        "s3",
        endpoint_url=known["AWS_ENDPOINT_URL"],
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        region_name=known["AWS_REGION"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def store(mine: Cluster) -> Any:
    """A client with a bucket."""
    client = client_of(mine)
    client.create_bucket(Bucket="runs")
    return client


def body(store: Any, key: str) -> bytes:
    return store.get_object(Bucket="runs", Key=key)["Body"].read()


def test_what_was_put_can_be_read_and_is_listed(store: Any) -> None:
    store.put_object(Bucket="runs", Key="a/b.txt", Body=b"words")
    assert body(store, "a/b.txt") == b"words"
    listed = store.list_objects_v2(Bucket="runs", Prefix="a/")["Contents"]
    assert [(each["Key"], each["Size"]) for each in listed] == [("a/b.txt", 5)]


def test_an_object_is_put_together_from_its_parts(store: Any) -> None:
    target = {"Bucket": "runs", "Key": "large"}
    upload = store.create_multipart_upload(**target)["UploadId"]
    bodies = [b"1" * 5 * MEBIBYTE, b"2" * MEBIBYTE]
    parts = [
        {
            "PartNumber": number,
            "ETag": store.upload_part(
                **target, UploadId=upload, PartNumber=number, Body=data
            )["ETag"],
        }
        for number, data in enumerate(bodies, 1)
    ]  # fmt: skip
    store.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})
    assert body(store, "large") == b"".join(bodies)


def test_one_of_many_writers_of_a_new_object_wins_and_the_others_are_told(store: Any) -> None:
    def put(number: int) -> int:
        """The status of the answer."""
        try:
            store.put_object(Bucket="runs", Key="epoch", Body=b"%d" % number, IfNoneMatch="*")
        except store.exceptions.ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(put, range(64)))
    assert told.count(200) == 1
    assert set(told) <= {200, 409, 412}
    assert body(store, "epoch") == b"%d" % told.index(200)


def test_a_stranger_may_read_nothing_from_the_store(store: Any, mine: Cluster) -> None:
    stranger = client_of(mine, AWS_SECRET_ACCESS_KEY="guessed")
    with pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.list_objects_v2(Bucket="runs")


def test_the_credentials_are_in_a_file_for_its_owner_and_in_no_command(mine: Cluster) -> None:
    file = s3.environment_file(mine.folder)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = s3.environment(mine.folder)["AWS_SECRET_ACCESS_KEY"].encode()
    server = processes.recorded(mine.home, s3.COMPONENT)
    assert server is not None
    assert secret not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


def test_a_pod_reaches_the_store_with_a_secret_made_from_the_file(
    mine: Cluster, kube: Kube
) -> None:
    file = s3.environment_file(mine.folder)
    kube.run("create", "secret", "generic", "s3", "-n", SPACE, f"--from-env-file={file}")
    code = (
        "import os, urllib.request as u;"
        "print(u.urlopen(os.environ['AWS_ENDPOINT_URL'] + '/health', timeout=10).status)"
    )
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-c", code],
        "envFrom": [{"secretRef": {"name": "s3"}}],
    }
    pod = {"containers": [container], "restartPolicy": "Never", "nodeName": "node0"}
    metadata = {"name": "client", "namespace": SPACE}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod})
    kube.run("wait", "pod/client", "-n", SPACE, "--for=jsonpath={.status.phase}=Succeeded",
             "--timeout=120s")  # fmt: skip
    assert kube.run("logs", "-n", SPACE, "client").strip() == "200"


def test_a_cluster_with_extras_leaves_nothing_behind(mine: Cluster) -> None:
    assert mine.ailments() == []
    assert remains.find(NAME, mine.place).routes
    assert clusters.down(NAME)
    assert not remains.find(NAME, mine.place)
