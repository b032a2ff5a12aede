"""Programs that are not in the image, started the other ways, on two real nodes.

How each kind of entrypoint starts, fails and ends is tests/trainer's business; here it is that the
operator brings code, environment and configuration to where the program finds them.
"""

from collections.abc import Callable

import pytest

from tests.support.installed import ROOT
from tests.support.kube import Kube
from tests.support.quickstart import Run

PROGRAMS = ROOT / "tests" / "trainer" / "programs"
CONFIG = (
    '{"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 3}, "optimizer":'
    ' {"type": "AdamW", "params": {"lr": 0.001, "torch_adam": true}}}'
)


def config_map(name: str, namespace: str, data: dict[str, str]) -> dict[str, object]:
    where = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": data}


@pytest.mark.usefixtures("operator")
def test_a_program_with_a_trainer_of_its_own_comes_from_a_config_map(
    quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    file = PROGRAMS / "own_trainer.py"
    kube.apply(config_map("code", namespace, {file.name: file.read_text()}))
    run = quickstart(
        entrypoint={"driver": file.name},
        code={"configMap": {"name": "code"}},
        deepspeed={},
        # The program runs beside Ray there, and imports torch too.
        head={"resources": {"cpu": "200m", "memory": "3Gi"}},
    )
    job = run.await_condition("Complete")
    status = job["status"]
    assert status["progress"]["step"] == 12
    assert any("num_workers: 4 became 2" in told for told in status["run"]["overrides"])
    assert status["checkpoint"]["path"].startswith(status["run"]["storagePath"])


@pytest.mark.seed("S3", ".deepspeed_env")
@pytest.mark.usefixtures("operator")
def test_a_script_with_a_launcher_comes_from_a_volume_with_its_environment(
    quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    run = quickstart(
        entrypoint={
            "command": ["sh", "-c", "echo $FROM_FILE $FROM_SPEC; ./node.sh deepspeed --steps=5"],
            "per": "Node",
            "workingDir": "/mnt/code/programs",
        },
        code={"volume": {"claim": "quickstart", "path": "src"}},
        deepspeed={
            "configMap": {"name": "ds"},
            "env": {"FROM_SPEC": "2"},
            "envFile": {"configMap": {"name": "ds"}},
        },
    )
    for name in ("node.sh", "hosts", "tiny.py"):
        run.claim.write(f"src/programs/{name}", (PROGRAMS / name).read_text())
    # Until now the job has waited for this.
    kube.apply(
        config_map("ds", namespace, {"ds_config.json": CONFIG, ".deepspeed_env": "FROM_FILE=1\n"})
    )
    job = run.await_condition("Complete")
    assert job["status"]["progress"]["step"] == 5
    for number in (0, 1):
        node = run.read(f"attempt-1/logs/node-{number:05d}.log")
        rank = run.read(f"attempt-1/logs/rank-{number:05d}.log")
        assert node is not None
        assert rank is not None
        assert node.splitlines()[:2] == ["1 2", f"before the launcher on node {number} of 2"]
        assert f'"RANK": "{number}"' in rank
