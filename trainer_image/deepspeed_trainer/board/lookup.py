"""Where the board is: made once on the head by the driver, found by everybody else."""

import os
from typing import Any, Final

import ray

from deepspeed_trainer.board.actor import Board
from deepspeed_trainer.contract import BOARD_ACTOR, BOARD_NAMESPACE, PROGRESS_PORT

TOKEN_ENV: Final = "RAY_AUTH_TOKEN"  # noqa: S105  the name of a variable
PORT_ENV: Final = "DSJOB_PROGRESS_PORT"
"""Another port than the contract's, for several clusters on one machine."""


def open_board() -> Any:
    """Return the actor of this cluster's board, made on the head when there is none."""
    actor = ray.remote(Board).options(
        name=BOARD_ACTOR,
        namespace=BOARD_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
    )
    port = int(os.environ.get(PORT_ENV, PROGRESS_PORT))
    return actor.remote(port, os.environ.get(TOKEN_ENV, ""))


def find_board() -> Any:
    """Return the board's actor; it must have been opened by the driver."""
    return ray.get_actor(BOARD_ACTOR, namespace=BOARD_NAMESPACE)
