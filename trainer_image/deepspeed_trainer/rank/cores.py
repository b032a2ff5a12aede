"""A rank's share of its pod's cores, and binding to it."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from deepspeed_trainer.board.ranks import Launch
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.launchers.hosts import share_cores
from deepspeed_trainer.launchers.request import LauncherRefused


class TooFewCores(RuntimeError):
    """The pod has fewer cores than ranks that are to be bound; the message names the field."""


def find_share(contract: RunContract, launch: Launch) -> list[int]:
    """Return the cores of a rank; none where ranks are not bound.

    Raises:
        TooFewCores: there is none for every rank.
    """
    if not contract.bind_cores:
        return []
    available = os.sched_getaffinity(0)
    try:
        return share_cores(available, None, launch.local_rank, launch.local_world_size)
    except LauncherRefused as error:
        raise TooFewCores(
            f"spec.worker.bindCores: {error}; remove it, or use nodes with more cores"
        ) from error


def name_threads(contract: RunContract, cores: Collection[int]) -> dict[str, str]:
    """Return OMP_NUM_THREADS as it fits the cores, unless the job says it."""
    if not cores or "OMP_NUM_THREADS" in contract.env:
        return {}
    return {"OMP_NUM_THREADS": str(len(cores))}


def bind_this_process(cores: Collection[int]) -> None:
    """Bind every thread that this process has; those to come inherit it."""
    for thread in list(Path("/proc/self/task").iterdir()):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)
