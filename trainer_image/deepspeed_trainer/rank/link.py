"""A rank's line to the board: who this rank is, what it has to say, what it shall do.

A board that does not answer ends the attempt: without it no failure could be told and no
checkpoint committed.
"""

import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import ray

from deepspeed_trainer.board.actor import find_board
from deepspeed_trainer.board.ranks import Orders
from deepspeed_trainer.contract import POD_NAME_ENV, POD_UID_ENV
from deepspeed_trainer.rank.facts import Fact

BOARD_TIMEOUT_S: Final = 60.0
CALLS_PER_S: Final = 256
"""What all ranks together may ask of the one board."""
TICK_S: Final = 0.5
"""Shortest pause between two talks with the board while the program runs."""
WAIT_TICK_S: Final = 0.1
"""The same while nothing else is to be done: before the start and after the end."""


def pause_s(world_size: int, shortest_s: float) -> float:
    """Return the pause between two talks of a rank, longer where there are many ranks."""
    return max(shortest_s, world_size / CALLS_PER_S)


class BoardLink:
    """Talks with the board for one rank."""

    def __init__(self, submission_id: str, rank: int) -> None:
        self._board = find_board()
        self._submission_id = submission_id
        self._rank = rank

    def sync(self, facts: Sequence[Fact]) -> Orders:
        """Hand over facts and return the orders.

        Raises:
            ray.exceptions.RayError: the board is gone or does not know this run.
        """
        answer = self._board.sync.remote(self._submission_id, self._rank, list(facts))
        orders = ray.get(answer, timeout=BOARD_TIMEOUT_S)
        assert isinstance(orders, Orders)  # noqa: S101  the board is ours
        return orders


def hello(port: int) -> dict[str, Any]:
    """Return the fact that introduces a rank; outside Kubernetes Ray's node stands for the pod."""
    node_id = ray.get_runtime_context().get_node_id()
    return {
        "kind": "hello",
        "pod_uid": os.environ.get(POD_UID_ENV, node_id),
        "pod": os.environ.get(POD_NAME_ENV, node_id),
        "address": ray.util.get_node_ip_address(),
        "port": port,
    }


def reserve_port() -> socket.socket:
    """Return a socket that holds a free port for the program's rendezvous.

    It is bound and never listens.  A server that binds with SO_REUSEADDR, as torch's store does,
    may share the port; nobody who asks the kernel for any free port is given this one.
    """
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    holder = socket.socket(family)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("", 0))
    return holder
