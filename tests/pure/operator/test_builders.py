"""What is built: one golden RayCluster, names within their limits, sizes, and the contract."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deepspeed_operator.api.names import derive_cluster_name
from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.build.raycluster import build_raycluster
from deepspeed_operator.build.sizing import derive_worker_sizes
from deepspeed_operator.errors import InvalidJob
from deepspeed_trainer.contract import LEAVE_COMMAND, LEAVE_DIR_ENV, LEAVE_GRACE_ENV
from tests.support.builders import a_job

DATA = Path(__file__).resolve().parents[2] / "data"
CASES = sorted(path.name for path in DATA.iterdir() if (path / "job.yaml").exists())

KUBERNETES_GRACE_S = 30
"""What a pod has that says nothing."""


def render(case: str) -> dict[str, Any]:
    spec = yaml.safe_load((DATA / case / "job.yaml").read_text())["spec"]
    job = a_job(case).with_spec(**spec).build()
    parsed = DeepSpeedJobSpec.model_validate(spec)
    cluster = derive_cluster_name(job.key.name, job.uid, 1)
    return build_raycluster(
        job, parsed, cluster, parsed.image or "trainer:1", injector="operator:1"
    )


@pytest.mark.parametrize("case", CASES)
def test_raycluster_is_the_golden_one(case: str) -> None:
    expected = yaml.safe_load((DATA / case / "expected.yaml").read_text())
    assert render(case) == expected, "if the change is wanted, `make gen` writes the golden files"


@pytest.mark.parametrize("case", CASES)
def test_a_pod_is_drained_before_it_is_killed(case: str) -> None:
    """Ray would go on draining a node whose containers Kubernetes kills meanwhile."""
    spec = render(case)["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        drain_s = int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drain_s < pod.get("terminationGracePeriodSeconds", KUBERNETES_GRACE_S)


@given(
    name=st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", fullmatch=True),
    number=st.integers(1, 9999),
)
def test_cluster_name_is_one_that_kuberay_accepts(name: str, number: int) -> None:
    found = derive_cluster_name(name, "some-uid", number)
    assert len(found) <= 53
    assert found[0].isalpha()
    assert found.endswith(f"-{number}")
    assert all(c.isalnum() or c == "-" for c in found)


def test_cut_names_of_two_jobs_differ() -> None:
    long = "a" * 60
    assert derive_cluster_name(long, "uid-1", 1) != derive_cluster_name(long, "uid-2", 1)


def test_every_pod_is_told_to_go_before_it_is_signalled_and_is_not_moved_for_packing() -> None:
    job = a_job()
    spec = spec_of(preemption={"graceSeconds": 90})
    cluster = build_raycluster(job.build(), spec, "c", "trainer:1")["spec"]
    templates = cluster["headGroupSpec"], *cluster["workerGroupSpecs"]
    for pod in (group["template"] for group in templates):
        [container] = pod["spec"]["containers"]
        env = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert container["lifecycle"]["preStop"]["exec"]["command"] == list(LEAVE_COMMAND)
        assert pod["spec"]["terminationGracePeriodSeconds"] == 90
        assert env[LEAVE_GRACE_ENV] == "90"
        assert env[LEAVE_DIR_ENV] == "/tmp/dsjob-leave"  # noqa: S108
        assert pod["metadata"]["annotations"] == {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        }


def spec_of(**fields: Any) -> DeepSpeedJobSpec:
    return DeepSpeedJobSpec.model_validate(a_job().with_spec(**fields).spec)


def test_defaults_grow_with_ranks() -> None:
    sizes = derive_worker_sizes(spec_of(accelerator={"type": "Nvidia"}, gpusPerNode=8))
    assert (sizes.cpu, sizes.memory, sizes.device, sizes.devices) == (
        "64",
        f"{512 * 1024}Mi",
        "nvidia.com/gpu",
        8,
    )


def test_ray_hands_out_a_cpu_a_rank_even_when_the_pod_asks_for_less() -> None:
    sizes = derive_worker_sizes(spec_of(gpusPerNode=2, worker={"resources": {"cpu": "200m"}}))
    assert sizes.ray_cpus == 2


@pytest.mark.parametrize(
    ("worker", "field"),
    [
        ({"resources": {"memory": "lots"}}, "worker.resources.memory"),
        ({"resources": {"cpu": "-1"}}, "worker.resources.cpu"),
        ({"resources": {"memory": "1Gi"}, "sharedMemory": "1Gi"}, "worker.sharedMemory"),
    ],
)
def test_bad_size_is_refused_by_its_field(worker: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob, match=field):
        derive_worker_sizes(spec_of(worker=worker))
