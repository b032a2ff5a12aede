"""What a rank's program finds: environment variables, files and arguments. No process is started.

The variables are those of the `deepspeed` launcher, all of them, so that neither torch nor
DeepSpeed nor Accelerate looks for MPI or a hostfile.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deepspeed_trainer.attempt import Launch
from deepspeed_trainer.contract import (
    ATTEMPT_ENV,
    CHECKPOINT_DIR_ENV,
    DEEPSPEED_CONFIG_ENV,
    RUN_ENV,
    RunContract,
    attempt_dir,
    checkpoint_dir,
)

RANK_SITE: Final = str(Path(__file__).parent / "rank_site")
"""Holds the sitecustomize of a rank's process."""


def job_env(contract: RunContract, config_path: Path | None) -> dict[str, str]:
    """Return what is the same for all ranks of a pod."""
    env = {
        "DS_ACCELERATOR": contract.accelerator,
        "OMP_NUM_THREADS": str(max(1, int(contract.cpus_per_rank))),
        **contract.env,
        ATTEMPT_ENV: str(contract.attempt),
        RUN_ENV: contract.run,
        CHECKPOINT_DIR_ENV: str(program_checkpoint_dir(contract)),
    }
    if config_path is not None:
        env[DEEPSPEED_CONFIG_ENV] = str(config_path)
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


def script_command(contract: RunContract, launch: Launch, config_path: Path | None) -> list[str]:
    """Return the command of a script's rank.

    `--deepspeed_config PATH` comes last, and only when the job carries a configuration; nothing
    else is added to the user's arguments.
    """
    entrypoint = contract.entrypoint
    command = [sys.executable, "-u", entrypoint.target, f"--local_rank={launch.local_rank}"]
    command += entrypoint.args
    if config_path is not None:
        command += ["--deepspeed_config", str(config_path)]
    return command


def prepend_path(env: Mapping[str, str], folder: str) -> str:
    """Return PYTHONPATH with a folder first."""
    given = env.get("PYTHONPATH")
    return f"{folder}{os.pathsep}{given}" if given else folder


def program_checkpoint_dir(contract: RunContract) -> Path:
    """Return where the program shall save: on the storage, or the pod's /tmp without one."""
    if contract.storage is None:
        return Path(tempfile.gettempdir()) / "dsjob" / contract.submission_id / "checkpoints"
    return Path(checkpoint_dir(contract.storage, contract.job, contract.run, contract.attempt))


def log_path(contract: RunContract, rank: int) -> Path | None:
    """Return the rank's log file, or None without storage."""
    if contract.storage is None:
        return None
    folder = attempt_dir(contract.storage, contract.job, contract.run, contract.attempt)
    return Path(folder) / "logs" / f"rank-{rank:05d}.log"


def write_config(contract: RunContract, folder: Path) -> Path | None:
    """Write the DeepSpeed configuration to a file, when the job carries one."""
    if contract.deepspeed_config is None:
        return None
    path = folder / "deepspeed_config.json"
    path.write_text(json.dumps(dict(contract.deepspeed_config), indent=1))
    return path
