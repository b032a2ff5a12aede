"""Fits a driver program's RunConfig and TorchTrainer to the job, while the program makes them.

Both are caught at `__init__`: afterwards nobody can tell what the program had left open, and the
backend is chosen there.  Every setting of the program that gives way is told in one sentence.
Private parts of Ray are not used, but two modules are named where its public classes lie.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

from deepspeed_trainer.contract import CONTRACT_ENV, RANK_RESOURCE, RESTART_ENV, RunContract
from deepspeed_trainer.hooks.patching import Patch, PatchOnImport
from deepspeed_trainer.hooks.wire import SOCKET_ENV, Wire
from deepspeed_trainer.rank import rankenv

CONFIG_MODULE: Final = "ray.train.v2.api.config"
TRAINER_MODULE: Final = "ray.train.v2.torch.torch_trainer"
RUN_NAME: Final = "ray"

Tell = Callable[[str], None]


class WrongSize(ValueError):
    """The program's ScalingConfig is not the job's, and `sizing: Program` keeps it."""


class SecondTrainer(RuntimeError):
    """The program makes a second TorchTrainer, for which the job has no ranks."""


def install() -> None:
    """Install the hooks in the process of the driver program."""
    contract = RunContract.from_json(os.environ[CONTRACT_ENV])
    wire = Wire(os.environ[SOCKET_ENV])

    def tell(sentence: str) -> None:
        print(f"[trainer] {sentence}", flush=True)  # noqa: T201  the job's log
        wire.report({"kind": "override", "sentence": sentence})

    restart = int(os.environ[RESTART_ENV])
    fitting = Fitting(contract, restart, tell, lambda: wire.await_word("trainer"))
    # A patch that fails must end the program: it would train with other numbers than the job's.
    PatchOnImport(fitting.patches(), _raise).install()


class Fitting:
    """What of a program's configuration becomes the job's."""

    def __init__(
        self, contract: RunContract, restart: int, tell: Tell, await_job: Callable[[], None]
    ) -> None:
        self._contract = contract
        self._restart = restart
        self._tell = tell
        self._await_job = await_job
        self._has_trainer = False

    def patches(self) -> Mapping[str, Patch]:
        """Return patches by module name."""
        return {CONFIG_MODULE: self._patch_config, TRAINER_MODULE: self._patch_trainer}

    def _patch_config(self, module: ModuleType) -> None:
        _wrap_init(module.RunConfig, self.fit_run_config)

    def _patch_trainer(self, module: ModuleType) -> None:
        _wrap_init(module.TorchTrainer, self.fit_trainer)

    def fit_run_config(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of RunConfig: open ones filled in, restarts left to the operator."""
        from deepspeed_trainer.driver.raytrain import (  # noqa: PLC0415
            name_run,
            no_restarts,
            ray_folder,
        )
        from deepspeed_trainer.hooks.reports import BoardReports  # noqa: PLC0415

        contract = self._contract
        name = given.get("name")
        attempt_name = f"{name}-attempt-{contract.attempt}" if name else RUN_NAME
        attempt_name = name_run(attempt_name, self._restart)
        if name:
            self._tell(f"RunConfig.name: {name!r} became {attempt_name!r}, the attempt's own name")
        policy = given.get("failure_config")
        if policy is not None and policy.max_failures != 0:
            self._tell(
                f"FailureConfig.max_failures: {policy.max_failures} became 0; spec.failurePolicy"
                " says how often the job is tried again"
            )
        runtime_env = dict(given.get("worker_runtime_env") or {})
        job_env = rankenv.job_env(contract, None, self._restart)
        env_vars = {**job_env, **runtime_env.get("env_vars", {})}
        return {
            **given,
            "name": attempt_name,
            "storage_path": given.get("storage_path") or str(ray_folder(contract)),
            "failure_config": no_restarts(),
            "callbacks": [
                *(given.get("callbacks") or []),
                BoardReports(contract.submission_id, self._restart),
            ],
            "worker_runtime_env": {**runtime_env, "env_vars": env_vars},
        }

    def fit_trainer(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of TorchTrainer: the job's ranks around the program's train loop.

        Raises:
            WrongSize: the program insists on other numbers than the job's.
            SecondTrainer: there was one already.
        """
        from deepspeed_trainer.rank.function import run_train_loop  # noqa: PLC0415

        if self._has_trainer:
            raise SecondTrainer(
                "this program makes a second TorchTrainer; a job runs one: split the program, or"
                " do the second part inside the train loop"
            )
        self._has_trainer = True
        self._await_job()
        loop = given["train_loop_per_worker"]
        has_data = bool(given.get("datasets"))
        return {
            **given,
            "train_loop_per_worker": functools.partial(
                run_train_loop, loop, self._contract.to_json(), self._restart
            ),
            "train_loop_config": given.get("train_loop_config") or {},
            "scaling_config": self.fit_scaling(given.get("scaling_config"), has_data=has_data),
            "torch_config": self._fit_backend(given.get("torch_config")),
        }

    def fit_scaling(self, given: Any, *, has_data: bool) -> Any:
        """Return the job's ScalingConfig, made from the program's."""
        from ray.train import ScalingConfig  # noqa: PLC0415

        contract = self._contract
        given = given or ScalingConfig()
        use_gpu = contract.gpus_per_rank > 0
        differs = _differences(
            {"num_workers": given.num_workers, "use_gpu": given.use_gpu},
            {"num_workers": contract.world_size, "use_gpu": use_gpu},
        )
        if differs and contract.entrypoint.sizing == "Program":
            raise WrongSize(
                f"the program's ScalingConfig and the job differ: {'; '.join(differs)}. Make"
                " spec.nodes, spec.gpusPerNode and spec.accelerator the program's, or set"
                " entrypoint.sizing: Job"
            )
        for difference in differs:
            self._tell(f"ScalingConfig.{difference}, as the job says")
        return replace(
            given,
            num_workers=contract.world_size,
            use_gpu=use_gpu,
            resources_per_worker=self._fit_resources(given, has_data=has_data),
        )

    def _fit_resources(self, given: Any, *, has_data: bool) -> dict[str, float]:
        """Return what one rank takes; ranks with Ray Data leave the CPUs to its tasks."""
        contract = self._contract
        wanted = dict(given.resources_per_worker or {})
        wanted.pop("GPU", None)
        cpus = wanted.pop("CPU", 0 if has_data else contract.cpus_per_rank)
        if cpus > contract.cpus_per_rank:
            self._tell(
                f"resources_per_worker.CPU: {cpus:g} became {contract.cpus_per_rank:g}, all that"
                " spec.worker.resources.cpu has for a rank"
            )
        found = {**wanted, "CPU": min(cpus, contract.cpus_per_rank), RANK_RESOURCE: 1.0}
        return {**found, "GPU": float(contract.gpus_per_rank)} if contract.gpus_per_rank else found

    def _fit_backend(self, given: Any) -> Any:
        from ray.train.torch import TorchConfig  # noqa: PLC0415

        given = given or TorchConfig()
        wanted = self._contract.backend
        if given.backend and given.backend != wanted:
            self._tell(f"TorchConfig.backend: {given.backend} became {wanted}, as the job says")
        return replace(given, backend=wanted)


def _differences(program: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {program[key]} became {job[key]}" for key in job if program[key] != job[key]]


def _wrap_init(owner: Any, fit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Let a class be made from fitted arguments, whether they were given by name or by place."""
    original = owner.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fitted(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = dict(bound.arguments)
        given.pop("self")
        original(self, **fit(given))

    owner.__init__ = fitted


def _raise(fact: Mapping[str, Any]) -> None:
    raise RuntimeError(f"this Ray cannot be fitted to the job: {fact['failure']}")
