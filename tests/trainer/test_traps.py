"""Traps of Ray Train, torch and DeepSpeed that other tests do not walk into by themselves."""

import tempfile
from pathlib import Path

import ray.train

from deepspeed_trainer.contract import Entrypoint, EntrypointKind, Metric, RunPhase
from deepspeed_trainer.driver.raytrain import RAY_ENV
from tests.trainer.attempts import CONFIG, Job
from tests.trainer.raycluster import RayCluster


def test_ray_knows_every_setting_that_it_is_given() -> None:
    """Ray ignores a name that it does not know: its next release may have renamed one."""
    package = Path(ray.__file__).parent
    files = [*(package / "train").rglob("*.py"), *(package / "_private").glob("*.py")]
    known = "\n".join(file.read_text() for file in files)
    assert [name for name in RAY_ENV if name not in known] == []


def test_a_report_in_every_step_is_taken_to_the_last(cluster: RayCluster, storage: Path) -> None:
    outcome = Job(cluster, storage).run(1, "loops:report_often")
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.metrics == (Metric("number", "11"),)


def test_auto_that_nobody_filled_in_is_named(cluster: RayCluster, storage: Path) -> None:
    config = {**CONFIG, "gradient_clipping": "auto"}
    outcome = Job(cluster, storage).run(1, "tiny.py", deepspeed_config=config)
    assert outcome.progress.failure is not None, outcome.log
    assert '"auto" for gradient_clipping: ' in (outcome.progress.notice or "")


def test_a_lock_that_a_killed_build_left_is_gone_before_ranks_start(
    cluster: RayCluster, storage: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "fused_adam" / "lock"
        lock.parent.mkdir()
        lock.touch()
        check = Entrypoint(EntrypointKind.COMMAND, "test", ("!", "-e", str(lock)))
        fields = {"distributed": False, "env": {"TORCH_EXTENSIONS_DIR": folder}}
        outcome = Job(cluster, storage).run(1, "test", entrypoint=check, **fields)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
