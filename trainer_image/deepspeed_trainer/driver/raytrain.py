"""How Ray Train is used: one TorchTrainer for a group of workers, as the contract says.

Ray never restarts anything here (the operator owns restarts, the board spends what it was given of
them), never changes the working directory and never makes the process group of a script: its ranks
are children that make it themselves.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from deepspeed_trainer.board.ranks import Verdict
from deepspeed_trainer.checkpoints.files import pod_folder
from deepspeed_trainer.contract import (
    RANK_RESOURCE,
    EntrypointKind,
    RunContract,
    attempt_dir,
)
from deepspeed_trainer.rank import rankenv

RAY_ENV: Final = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    # How soon Ray sees that ranks have ended or are lost.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A cold image takes long to import; nobody else has a claim on these ranks' places.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Set in the driver before Ray is imported; Ray hands it on to controller and workers."""


def set_ray_env() -> None:
    """Set RAY_ENV, but for what the pod's own environment says already."""
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)


def preload() -> None:
    """Import what `train` needs: seconds that pass while the board's process starts."""
    import ray.train.torch  # noqa: F401, PLC0415  after set_ray_env


def train(contract: RunContract, restart: int = 0) -> Verdict:
    """Run a group of workers to its end."""
    from ray.train import TrainingFailedError, WorkerGroupError  # noqa: PLC0415  after set_ray_env
    from ray.train.v2._internal.exceptions import (  # noqa: PLC0415  Ray has no public name for it
        WorkerHealthCheckFailedError,
    )

    try:
        build_trainer(contract, restart).fit()
    except WorkerGroupError as error:
        failures = error.worker_failures
        lost = {
            rank: _first_line(failure)
            for rank, failure in failures.items()
            if isinstance(failure, WorkerHealthCheckFailedError)
        }
        others = [failure for rank, failure in failures.items() if rank not in lost]
        return Verdict(lost, _first_line(others[0]) if others else None)
    except TrainingFailedError as error:
        return Verdict(error=_first_line(error))
    return Verdict()


@dataclass(frozen=True, slots=True)
class _Loop:
    """What Ray Train runs in each worker, and how it prepares the workers."""

    function: Callable[[Mapping[str, Any]], Any]
    torch_config: Any
    callbacks: list[Any]
    env: Mapping[str, str]


def build_trainer(contract: RunContract, restart: int = 0) -> Any:
    """Return the TorchTrainer of an attempt's first group of workers, or of a later one."""
    from ray.train import RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    from deepspeed_trainer.driver.leantrainer import LeanTrainer  # noqa: PLC0415

    is_function = contract.entrypoint.kind is EntrypointKind.FUNCTION
    loop = _own_loop(contract, restart) if is_function else _child_loop(contract)
    datasets = read_data(contract)
    # Ranks that train from Ray Data leave the CPUs to its tasks.
    resources = {"CPU": 0 if datasets else contract.cpus_per_rank, RANK_RESOURCE: 1}
    if contract.gpus_per_rank:
        resources["GPU"] = contract.gpus_per_rank
    make_trainer = TorchTrainer if datasets else LeanTrainer
    return make_trainer(
        loop.function,
        datasets=datasets or None,
        train_loop_config={"contract": contract.to_json(), "restart": restart},
        torch_config=loop.torch_config,
        scaling_config=ScalingConfig(
            num_workers=contract.world_size,
            use_gpu=contract.gpus_per_rank > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=name_run("ray", restart),
            storage_path=str(ray_folder(contract)),
            failure_config=no_restarts(),
            callbacks=loop.callbacks,
            worker_runtime_env={"env_vars": dict(loop.env)},
        ),
    )


def name_run(name: str, restart: int) -> str:
    """Return the name of a group's Ray Train run; Ray would go on with one that it knows."""
    return f"{name}-restart-{restart}" if restart else name


def read_data(contract: RunContract) -> dict[str, Any]:
    """Return the data sets of a function; nothing is read yet but the files' names."""
    if not contract.entrypoint.data:
        return {}
    import ray.data  # noqa: PLC0415  pandas and pyarrow, seconds that others need not wait

    readers = {
        "Csv": ray.data.read_csv,
        "Json": ray.data.read_json,
        "Parquet": ray.data.read_parquet,
        "Text": ray.data.read_text,
    }
    return {each.name: readers[each.format](list(each.paths)) for each in contract.entrypoint.data}


def no_restarts() -> Any:
    """Return the FailureConfig that leaves every restart to the operator and the board."""
    from ray.train import FailureConfig  # noqa: PLC0415

    settings = ("max_failures", "controller_failure_limit", "max_preemption_failures")
    known = {field.name for field in fields(FailureConfig)}  # the last one since Ray 2.58
    return FailureConfig(**{name: 0 for name in settings if name in known})


def _child_loop(contract: RunContract) -> _Loop:
    """A supervisor in each worker; the rank's process gets its environment from there."""
    from deepspeed_trainer.driver.nogroup import NoGroupConfig  # noqa: PLC0415
    from deepspeed_trainer.rank.worker import supervise  # noqa: PLC0415

    return _Loop(supervise, NoGroupConfig(contract.backend), [], {})


def _own_loop(contract: RunContract, restart: int) -> _Loop:
    """The user's function in each worker; Ray makes the process group."""
    from ray.train.torch import TorchConfig  # noqa: PLC0415

    from deepspeed_trainer.hooks.reports import BoardReports  # noqa: PLC0415
    from deepspeed_trainer.rank.function import run_function  # noqa: PLC0415

    callbacks = [BoardReports(contract.submission_id, restart)]
    env = rankenv.job_env(contract, None, restart)
    return _Loop(run_function, TorchConfig(backend=contract.backend), callbacks, env)


def ray_folder(contract: RunContract) -> Path:
    """Return where Ray Train keeps the files of an attempt."""
    if contract.volume is None:
        return pod_folder(contract.submission_id)
    return Path(attempt_dir(contract.volume, contract.job, contract.run, contract.attempt))


def export(contract: RunContract, path: str) -> str:
    """Export a checkpoint on one of the workers, where ranks had their place; returns its folder.

    Raises:
        ray.exceptions.RayError: it could not be.
    """
    import ray  # noqa: PLC0415  after set_ray_env

    from deepspeed_trainer.rank.export import export_checkpoint  # noqa: PLC0415

    task = ray.remote(export_checkpoint).options(
        num_cpus=0, resources={RANK_RESOURCE: 1}, max_retries=0
    )
    folder: str = ray.get(task.remote(contract.to_json(), path))
    return folder


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:1000]
