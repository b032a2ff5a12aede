"""What a rank's program finds: environment variables, files and arguments. No process is started.

The variables are those of the `deepspeed` launcher, all of them, so that neither torch nor
DeepSpeed nor Accelerate looks for MPI or a hostfile.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deepspeed_trainer.batching import read_batch
from deepspeed_trainer.board.ranks import Launch
from deepspeed_trainer.checkpoints.files import pod_folder
from deepspeed_trainer.contract import (
    ACCUMULATION_ENV,
    ATTEMPT_ENV,
    CHECKPOINT_DIR_ENV,
    DEEPSPEED_CONFIG_ENV,
    MICRO_BATCH_ENV,
    PREEMPTION_SIGNAL_ENV,
    RESTART_ENV,
    RUN_ENV,
    STACKS_DIR,
    Entrypoint,
    EntrypointKind,
    RunContract,
    attempt_dir,
    checkpoint_dir,
)

RANK_SITE: Final = str(Path(__file__).parents[1] / "rank_site")
"""Holds the sitecustomize of a rank's process, and of a driver program's."""

LAUNCHERS_PATH: Final = str(Path(__file__).parents[1] / "launchers_path")
"""Holds a program by the name of each launcher, to be found before the real ones."""
PYTHON_ENV: Final = "DSJOB_PYTHON"
"""The Python that those run under: the supervisor's own, whatever else PATH has."""
TIED_COMMAND: Final = (sys.executable, "-m", "deepspeed_trainer.rank.command")
"""Words before a command that need not be Python: they tie it to its supervisor."""

_REFERENCE: Final = re.compile(r"\${1,2}\(([A-Za-z_][A-Za-z0-9_]*)\)")


def job_env(contract: RunContract, config_path: Path | None, restart: int = 0) -> dict[str, str]:
    """Return what is the same for all ranks of a pod."""
    env = {
        "DS_ACCELERATOR": contract.accelerator,
        "OMP_NUM_THREADS": str(max(1, int(contract.cpus_per_rank))),
        **contract.env,
        ATTEMPT_ENV: str(contract.attempt),
        RESTART_ENV: str(restart),
        RUN_ENV: contract.run,
        CHECKPOINT_DIR_ENV: str(program_checkpoint_dir(contract)),
    }
    if contract.preemption_signal:
        env[PREEMPTION_SIGNAL_ENV] = contract.preemption_signal
    if config_path is not None:
        env[DEEPSPEED_CONFIG_ENV] = str(config_path)
    batch = read_batch(contract.deepspeed_config or {}, contract.world_size)
    if batch is not None:
        env[MICRO_BATCH_ENV] = str(batch.micro)
        env[ACCUMULATION_ENV] = str(batch.accumulation)
    return env


def rank_env(rank: int, world_size: int, launch: Launch) -> dict[str, str]:
    """Return what the launcher sets for one rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(launch.local_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(launch.local_world_size),
        "LOCAL_SIZE": str(launch.local_world_size),
        "CROSS_RANK": str(launch.node_rank),
        "CROSS_SIZE": str(launch.nodes),
        "NODE_RANK": str(launch.node_rank),
        "MASTER_ADDR": launch.master_addr,
        "MASTER_PORT": str(launch.master_port),
    }


def rank_command(contract: RunContract, env: Mapping[str, str]) -> list[str]:
    """Return the command of a rank's process, whose whole environment is `env`.

    As under the `deepspeed` launcher `--local_rank=N` comes first. `--deepspeed_config PATH` comes
    last, and only when the job carries a configuration. A command gets neither.
    """
    entrypoint = contract.entrypoint
    args = [expand(arg, env) for arg in entrypoint.args]
    if entrypoint.kind is EntrypointKind.COMMAND:
        return [*TIED_COMMAND, expand(entrypoint.target, env), *args]
    if entrypoint.local_rank_arg:
        args.insert(0, f"--local_rank={env['LOCAL_RANK']}")
    if DEEPSPEED_CONFIG_ENV in env:
        args += ["--deepspeed_config", env[DEEPSPEED_CONFIG_ENV]]
    return [*python_command(entrypoint), *args]


def node_env(launch: Launch, world_size: int) -> dict[str, str]:
    """Return what a command per node may pass on to the launcher that it calls."""
    return {
        "NNODES": str(launch.nodes),
        "NODE_RANK": str(launch.node_rank),
        "NPROC_PER_NODE": str(launch.local_world_size),
        "NUM_PROCESSES": str(world_size),
        "MASTER_ADDR": launch.master_addr,
        "MASTER_PORT": str(launch.master_port),
    }


def python_command(entrypoint: Entrypoint) -> list[str]:
    """Return the words that start a Python file or module, without arguments."""
    module = ["-m"] if entrypoint.kind is EntrypointKind.MODULE else []
    return [sys.executable, "-u", *module, entrypoint.target]


def expand(text: str, env: Mapping[str, str]) -> str:
    """Return a word with `$(NAME)` replaced by the variable, as in a pod's own arguments.

    A name that is not set stays as it is, and `$$(NAME)` stands for `$(NAME)`.
    """

    def replace(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return env.get(found[1], found[0])

    return _REFERENCE.sub(replace, text)


def launchers_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return what makes our launchers be found before the real ones of an environment."""
    return {"PATH": prepend_path(env, LAUNCHERS_PATH, "PATH"), PYTHON_ENV: sys.executable}


def prepend_path(env: Mapping[str, str], folder: str, name: str = "PYTHONPATH") -> str:
    """Return PYTHONPATH, or another list of folders, with a folder first."""
    given = env.get(name)
    return f"{folder}{os.pathsep}{given}" if given else folder


def program_checkpoint_dir(contract: RunContract) -> Path:
    """Return where the program shall save: on the job's volume, or the pod's /tmp without one."""
    if contract.volume is None:
        return pod_folder(contract.submission_id) / "checkpoints"
    return Path(checkpoint_dir(contract.volume, contract.job, contract.run, contract.attempt))


def log_path(contract: RunContract, rank: int) -> Path | None:
    """Return the rank's log file, or None without storage."""
    folder = log_folder(contract)
    return folder / f"rank-{rank:05d}.log" if folder else None


def node_log_path(contract: RunContract, node_rank: int) -> Path | None:
    """Return the log file of a command per node, or None without storage."""
    folder = log_folder(contract)
    return folder / f"node-{node_rank:05d}.log" if folder else None


def log_folder(contract: RunContract) -> Path | None:
    """Return where an attempt's log files are written, or None without storage.

    With a bucket that is the pod's /tmp, from where they are uploaded.
    """
    if contract.storage is None:
        return None
    if contract.volume is None:
        return pod_folder(contract.submission_id) / "logs"
    folder = attempt_dir(contract.volume, contract.job, contract.run, contract.attempt)
    return Path(folder) / "logs"


def stacks_folder(contract: RunContract) -> Path | None:
    """Return where an attempt's stack dumps lie, or None without storage."""
    folder = log_folder(contract)
    return folder.with_name(STACKS_DIR) if folder else None


def write_config(contract: RunContract, folder: Path) -> Path | None:
    """Write the DeepSpeed configuration to a file, when the job carries one."""
    if contract.deepspeed_config is None:
        return None
    path = folder / "deepspeed_config.json"
    path.write_text(json.dumps(dict(contract.deepspeed_config), indent=1))
    return path
