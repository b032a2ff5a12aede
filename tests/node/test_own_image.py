"""Images that hold nothing of ours: the trainer is injected and trains, or says why it cannot.

On two real nodes under restricted pod security: the init container and the words before Ray's start
are what the kubelet and KubeRay make of them.
"""

from collections.abc import Callable

import pytest

from devcluster import cluster as clusters
from devcluster import imagebuild, images
from devcluster.cluster import Cluster
from devcluster.imagebuild import Recipe
from devcluster.steps import run_steps
from tests.node.test_entrypoints import CONFIG, PROGRAMS, config_map
from tests.support.installed import ROOT
from tests.support.kube import Kube, condition
from tests.support.quickstart import Run
from tools.images import RECIPES as OURS
from tools.images import TRAINER

FOLDER = ROOT / "tests" / "support" / "images" / "own"
OWN, OUTDATED = (f"localhost/dsjob-test/{name}:1" for name in ("own", "outdated"))
RECIPES = [
    Recipe(tag, FOLDER / "Dockerfile", FOLDER, target=name, bases={"TRAINER_IMAGE": TRAINER})
    for tag, name in ((OWN, "own"), (OUTDATED, "outdated"))
]
USES_ITS_LIBRARY = "import own_library; print(own_library.greet())\n"


@pytest.fixture(scope="module")
def own_images(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both images, on all nodes."""
    trainer = next(recipe for recipe in OURS if recipe.tag == TRAINER)
    run_steps(imagebuild.steps(trainer, *RECIPES), logs=tmp_path_factory.mktemp("logs"))
    clusters.load_images(cluster, [images.resolve(r.tag) for r in RECIPES], quiet=True)


@pytest.mark.usefixtures("operator", "own_images")
def test_an_image_without_the_trainer_trains(
    quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    program = USES_ITS_LIBRARY + (PROGRAMS / "tiny.py").read_text()
    kube.apply(config_map("code", namespace, {"tiny.py": program, "ds_config.json": CONFIG}))
    run = quickstart(
        image=OWN,
        ttlSecondsAfterFinished=60,
        entrypoint={"script": "tiny.py", "args": ["--steps=5"]},
        code={"configMap": {"name": "code"}},
        deepspeed={"configMap": {"name": "code", "key": "ds_config.json"}},
    )
    status = run.await_condition("Complete")["status"]
    assert (status["progress"]["step"], status["worldSize"]) == (5, 2)
    assert status["checkpoint"]["path"].startswith(status["run"]["storagePath"])
    assert "notice" not in status["progress"], "every hook is in place"
    for pod in kube.list("pods", namespace, "ray.io/cluster"):
        ended = pod["status"]["initContainerStatuses"][0]["state"]["terminated"]
        print(pod["metadata"]["name"], pod["status"]["startTime"], ended)
    for rank in (0, 1):
        log = run.read(f"attempt-1/logs/rank-{rank:05d}.log") or ""
        assert "from a library of the image" in log


@pytest.mark.usefixtures("operator", "own_images")
def test_an_image_out_of_range_is_refused_by_name(quickstart: Callable[..., Run]) -> None:
    job = quickstart(image=OUTDATED).await_condition("Failed", within_s=120)
    failed = condition(job, "Failed")
    assert failed["reason"] == "ImageUnsupported"
    assert f"spec.image {OUTDATED}: this image has torch 1.13.1" in failed["message"]
    assert len(job["status"]["attempts"]) == 1, "no restart can help"


@pytest.mark.full
@pytest.mark.usefixtures("operator", "own_images")
def test_a_bucket_without_obstore_is_refused_by_name(quickstart: Callable[..., Run]) -> None:
    run = quickstart(image=OWN, storage={"uri": "s3://runs/here"})
    job = run.await_condition("Failed", within_s=120)
    assert condition(job, "Failed")["reason"] == "ImageUnsupported"
    assert "obstore, which spec.storage.uri needs" in job["status"]["failure"]["message"]
