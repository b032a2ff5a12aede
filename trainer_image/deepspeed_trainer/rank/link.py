"""A rank's line to the board: who this rank is, what it has to say, what it shall do.

A head that is silent for too long ends the rank: the operator may have started another attempt
elsewhere by then, and two must not write at the same time.
"""

import os
import socket
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any, Final

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from deepspeed_trainer import leaving
from deepspeed_trainer.board.lookup import find_board
from deepspeed_trainer.board.ranks import Orders
from deepspeed_trainer.contract import POD_NAME_ENV, POD_UID_ENV, RunContract
from deepspeed_trainer.rank.facts import Fact

CALLS_PER_S: Final = 256
"""What all ranks together may ask of the one board."""
TICK_S: Final = 0.5
"""Shortest pause between two talks with the board while the program runs."""
WAIT_TICK_S: Final = 0.1
"""The same while nothing else is to be done: before the start and after the end."""


def pause_s(world_size: int, shortest_s: float) -> float:
    """Return the pause between two talks of a rank, longer where there are many ranks."""
    return max(shortest_s, world_size / CALLS_PER_S)


class HeadSilent(ConnectionError):
    """The head has not answered for longer than a rank may live without it."""


class BoardLink:
    """Talks with the board for one rank in one round, which `restart` counts."""

    def __init__(self, contract: RunContract, rank: int, restart: int) -> None:
        self._board = find_board()
        self._contract = contract
        self._rank = rank
        self._restart = restart
        self._pod = leaving.find_folder()
        self._has_told = False

    def sync(self, facts: Sequence[Fact]) -> Orders:
        """Hand over facts, also that the pod was told to go, and return the orders.

        Raises:
            HeadSilent: no answer within the contract's deadman_s; the rank must die.
            ray.exceptions.RayError: the board is gone or does not know this run; the same.
        """
        told = list(facts)
        grace_s = None if self._has_told else leaving.read_grace_s(self._pod)
        if grace_s is not None:
            self._has_told = True
            pod = os.environ.get(POD_NAME_ENV, "")
            told.append({"kind": "going", "pod": pod, "grace_s": grace_s})
        with leaving.asking(self._pod):
            orders = self._ask(self._board.sync, self._rank, self._restart, told)
        assert isinstance(orders, Orders)  # noqa: S101  the board is ours
        return orders

    def _ask(self, method: Any, *arguments: Any) -> Any:
        """Call the board; a line that breaks is taken up again until time is up."""
        contract = self._contract
        deadline = monotonic() + contract.deadman_s
        while True:
            answer = method.remote(contract.submission_id, *arguments)
            try:
                return ray.get(answer, timeout=max(0.0, deadline - monotonic()))
            except (ActorUnavailableError, GetTimeoutError) as error:
                if monotonic() >= deadline:
                    raise HeadSilent(
                        f"rank {self._rank} has heard nothing from the head for"
                        f" {contract.deadman_s} s"
                    ) from error
            sleep(WAIT_TICK_S)


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
