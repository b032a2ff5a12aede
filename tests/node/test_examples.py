"""The examples' jobs as they are in their files, with the examples' image, on two real nodes.

What each program does in its ranks is tests/trainer/test_examples.py's business.  One of them runs
here always, the others with `make test-full`.
"""

from pathlib import Path

import pytest
import yaml

from devcluster import cluster as clusters
from devcluster import images
from devcluster.cluster import Cluster
from devcluster.steps import run_steps
from tests.node.test_entrypoints import config_map
from tests.support.installed import ROOT
from tests.support.kube import Kube, Object
from tests.support.quickstart import Run
from tools import example as quickstart
from tools.images import EXAMPLES, FOR_EXAMPLES, image_steps
from tools.target import Target

FOLDER = ROOT / "examples"
CLAIM = "examples"
JOBS = [
    pytest.param(
        path,
        id=f"{path.parent.name}/{path.name}",
        marks=[] if path.parts[-2:] == ("ray-train-ray-data", "job.yaml") else pytest.mark.full,
    )
    for path in sorted(FOLDER.glob("*/job*.yaml"))
    if path.parent.name != "quickstart" and path.name != "job-gpu.yaml"
]


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The examples' image, on all nodes."""
    run_steps(image_steps(FOR_EXAMPLES), logs=tmp_path_factory.mktemp("logs"))
    clusters.load_images(cluster, [images.resolve(EXAMPLES)], quiet=True)


def start(kube: Kube, namespace: str, path: Path, target: Target) -> Run:
    """Apply an example's job with its folder as a ConfigMap, and a claim of the test's own."""
    claim = next(each for each in quickstart.fit(quickstart.read_documents(), target))
    claim["metadata"] = {**claim["metadata"], "name": CLAIM, "namespace": namespace}
    files = {file.name: file.read_text() for file in path.parent.iterdir() if file.is_file()}
    job: Object = yaml.safe_load(path.read_text())
    job["metadata"]["namespace"] = namespace
    kube.apply(config_map(path.parent.name, namespace, files), claim, job)
    return Run(kube, namespace, str(job["metadata"]["name"]))


@pytest.mark.parametrize("path", JOBS)
@pytest.mark.usefixtures("operator", "image")
def test_an_examples_job_trains_on_two_nodes(
    kube: Kube, namespace: str, path: Path, target: Target
) -> None:
    run = start(kube, namespace, path, target)
    job = run.await_condition("Complete", within_s=600)
    status = job["status"]
    assert status["worldSize"] == 2
    assert status["checkpoint"]["path"].startswith(status["run"]["storagePath"])
    if path.name == "job-function.yaml":
        return  # what its ranks print is in Ray's logs alone
    sharded = "FSDP" if path.parent.name == "accelerate-fsdp" else "ZeRO-3"
    logs = "".join(
        run.read(f"attempt-1/logs/{name}.log") or ""
        for name in ("driver", "rank-00000", "rank-00001")
    )
    for rank in (0, 1):
        assert f"rank {rank} of 2: {sharded}" in logs
