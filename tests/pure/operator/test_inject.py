"""The trainer goes into images that jobs name, and an image that it cannot run in ends the job."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import deepspeed_trainer
from deepspeed_operator.api.names import Reason
from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.build import inject
from deepspeed_operator.build.raycluster import build_raycluster
from deepspeed_operator.decide.observed import Exit, Waiting
from deepspeed_trainer import contract, supported
from tests.support.builders import a_cluster, a_job, a_pod, observed
from tests.support.passes import cluster_name, condition, decide, status_of

INJECTOR = "registry.example/operator:1"
LACK = "this image has torch 1.13.1, the trainer needs 2.13.x: use an image in range"


def pods(injector: str = INJECTOR, **fields: Any) -> list[dict[str, Any]]:
    """Head's and workers' pod specs."""
    job = a_job().with_spec(**fields)
    spec = DeepSpeedJobSpec.model_validate(job.spec)
    body = build_raycluster(
        job.build(), spec, "demo-1", spec.image or "trainer:1", injector=injector
    )["spec"]
    groups = [body["headGroupSpec"], *body["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_trainer_is_copied_to_where_the_container_enters_it() -> None:
    for pod in pods(image="theirs:1"):
        [copy], [container] = pod["initContainers"], pod["containers"]
        assert copy["image"] == INJECTOR
        assert container["image"] == "theirs:1"
        [staged] = copy["volumeMounts"]
        [mounted] = [m for m in container["volumeMounts"] if m["name"] == staged["name"]]
        assert copy["command"][-2:] == ["/opt/dsjob/deepspeed_trainer", staged["mountPath"]]
        [entry] = container["args"]
        assert entry == f". {mounted['mountPath']}/deepspeed_trainer/enter.sh"
        assert {"name": staged["name"], "emptyDir": {}} in pod["volumes"]
        assert copy["securityContext"] == container["securityContext"]


def test_what_the_kubelet_runs_beside_ray_finds_the_trainer_too() -> None:
    for pod in pods(image="theirs:1"):
        [container] = pod["containers"]
        *shell, words = container["lifecycle"]["preStop"]["exec"]["command"]
        assert shell == ["/bin/bash", "-c"]
        assert words == f"{container['args'][0]} && exec {' '.join(contract.LEAVE_COMMAND)}"


def test_the_operators_image_holds_the_trainer_where_it_is_copied_from() -> None:
    dockerfile = Path(__file__).resolve().parents[3] / "Dockerfile"
    assert f"COPY trainer_image/deepspeed_trainer {inject.PACKAGE}\n" in dockerfile.read_text()


@pytest.mark.parametrize(
    "where", [{}, {"image": "theirs:1", "injector": ""}], ids=["our own image", "injection is off"]
)
def test_nothing_is_injected_into(where: dict[str, Any]) -> None:
    for pod in pods(**where):
        assert "initContainers" not in pod
        assert "args" not in pod["containers"][0]


def test_what_the_job_needs_besides_is_told_to_the_look_at_the_image() -> None:
    export = {"safetensors": "BFloat16"}
    for pod in pods(image="theirs:1", storage={"uri": "s3://a"}, checkpoint={"export": export}):
        told = pod["containers"][0]["args"][0].split()[2:]
        assert told == list(supported.PARTS)


def test_the_pull_policy_is_that_of_both_images() -> None:
    for pod in pods(image="theirs:1", imagePullPolicy="Always"):
        assert pod["initContainers"][0]["imagePullPolicy"] == "Always"


def test_entry_and_operator_agree_on_the_exit_code() -> None:
    entry = Path(deepspeed_trainer.__file__).with_name("enter.sh").read_text()
    assert {int(code) for code in re.findall(r"exit (\d+)", entry)} == {
        contract.EXIT_IMAGE_UNSUPPORTED
    }


def starting(image: str | None = "theirs:1", **changes: Any) -> Any:
    """A job whose head pod has come to something while its cluster comes up."""
    job = a_job().with_spec(**({} if image is None else {"image": image}))
    job = job.with_status(decide(job, observed()).status)
    name = cluster_name(job)
    head = replace(a_pod(name, "head", 0), ready=False, **changes)
    return decide(job, observed(clusters=(a_cluster(name),), pods=(head,)), 5)


def test_an_image_that_the_trainer_cannot_run_in_ends_the_job_at_once() -> None:
    status = status_of(starting(phase="Failed", exit=Exit("Error", 78, LACK + "\n")))
    assert condition(status, "Failed") == ("True", Reason.IMAGE_UNSUPPORTED)
    assert status.failure is not None
    assert status.failure.message == f"spec.image theirs:1: {LACK}"
    assert len(status.attempts) == 1


def test_the_same_exit_code_of_our_own_image_is_only_a_failed_pod() -> None:
    status = status_of(starting(None, phase="Failed", exit=Exit("Error", 78, "")))
    assert status.attempts[-1].cause == Reason.POD_FAILED


def test_an_injector_that_cannot_be_pulled_is_the_image_that_is_named() -> None:
    waiting = Waiting("ErrImagePull", f'failed to pull image "{INJECTOR}"')
    assert f"cannot pull {INJECTOR} for" in starting(waiting=waiting).sentence
    theirs = Waiting("ErrImagePull", 'failed to pull image "theirs:1"')
    assert "cannot pull theirs:1 for" in starting(waiting=theirs).sentence
