"""Every example's job is one that the API takes, and what it names is there."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deepspeed_operator.api.types import DeepSpeedJob
from tests.support.installed import ROOT
from tools.images import EXAMPLES

FOLDER = ROOT / "examples"
JOBS = sorted(FOLDER.glob("*/job*.yaml"))
OWN_IMAGE = "quickstart"


def read_job(path: Path) -> dict[str, Any]:
    documents = yaml.safe_load_all(path.read_text())
    return next(dict(each) for each in documents if each["kind"] == "DeepSpeedJob")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_field_is_one_of_the_api(path: Path) -> None:
    job = read_job(path)
    spec = DeepSpeedJob.model_validate(job).spec
    assert spec.model_dump(by_alias=True, exclude_unset=True) == job["spec"]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_job_mounts_its_own_folder(path: Path) -> None:
    if path.parent.name == OWN_IMAGE:
        return
    job, example = read_job(path), path.parent.name
    assert job["spec"]["code"] == {"configMap": {"name": example}}
    assert job["metadata"]["name"].startswith(example)
    assert path.name == "job-gpu.yaml" or job["spec"]["image"] == EXAMPLES
    deepspeed = job["spec"].get("deepspeed", {})
    for source in (deepspeed, deepspeed.get("envFile", {})):
        default = "ds_config.json" if source is deepspeed else ".deepspeed_env"
        if "configMap" in source:
            assert source["configMap"]["name"] == example
            assert (path.parent / source["configMap"].get("key", default)).is_file()


@pytest.mark.parametrize("folder", sorted({path.parent for path in JOBS}), ids=lambda p: p.name)
def test_every_example_says_what_it_is(folder: Path) -> None:
    assert (folder / "README.md").is_file()
    assert (folder / "job.yaml") in JOBS
