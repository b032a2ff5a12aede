"""The quickstart's jobs are valid and differ only where the machines differ."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepspeed_operator.api.types import DeepSpeedJob

QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all((QUICKSTART / name).read_text())
    return claim, job


def config(name: str) -> dict[str, Any]:
    return documents(name)[1]["spec"]["deepspeed"]["config"]


@pytest.mark.parametrize("name", ["job.yaml", "job-gpu.yaml"])
def test_every_field_is_one_of_the_api(name: str) -> None:
    _, job = documents(name)
    spec = DeepSpeedJob.model_validate(job).spec
    assert spec.model_dump(by_alias=True, exclude_unset=True) == job["spec"]


@pytest.mark.parametrize("name", ["job.yaml", "job-gpu.yaml"])
def test_the_claim_is_the_jobs_own_and_shared_by_nodes(name: str) -> None:
    claim, job = documents(name)
    assert claim["metadata"]["name"] == job["spec"]["storage"]["volumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_job_trains_as_the_program_does_by_itself() -> None:
    assert config("job.yaml") == json.loads((QUICKSTART / "ds_config.json").read_text())


def test_gpus_differ_in_precision_alone() -> None:
    assert config("job-gpu.yaml") == {**config("job.yaml"), "bf16": {"enabled": True}}
