"""From a rank's hello to the board's word to start: the chosen checkpoint is got ready between."""

import os
from collections.abc import Iterator
from time import sleep
from typing import Any

import ray.train

from deepspeed_trainer.board.ranks import Orders, Resume
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.rank import conversion, rankenv, resume
from deepspeed_trainer.rank.buildlocks import sweep_locks
from deepspeed_trainer.rank.link import BoardLink


class Starting:
    """One rank on its way to its start."""

    def __init__(self, contract: RunContract, rank: int, link: BoardLink, wait_s: float) -> None:
        self.resumed = Resumed()
        """What the program continues from, once the board lets it start."""
        self._contract = contract
        self._rank = rank
        self._link = link
        self._wait_s = wait_s

    def wait(self, hello: dict[str, Any]) -> Orders:
        """Return the orders with which the program starts, or those to stop."""
        orders, done = self._link.sync([hello]), 0
        while orders.launch is None and not (orders.must_stop or orders.go_again):
            if orders.resume is not None and orders.resume.number != done:
                done = orders.resume.number
                orders = self._link.sync(list(self._obey(orders.resume)))
                continue
            sleep(self._wait_s)
            orders = self._link.sync([])
        return orders

    def _obey(self, order: Resume) -> Iterator[dict[str, Any]]:
        """Do what the board chose, and tell of it; to convert is the first rank's work alone."""
        if not order.convert:
            yield self._prepare(order)
        elif self._rank == 0:
            yield self._convert(order)

    def _convert(self, order: Resume) -> dict[str, Any]:
        named = {"number": order.number, "path": order.convert}
        try:
            return conversion.convert(self._contract, order)
        except (resume.Damaged, FileNotFoundError) as error:
            return {"kind": "damaged", **named, "message": f"rank {self._rank}: {error}"}
        except conversion.NotConverted as error:
            return {"kind": "unconverted", **named, "message": str(error)[:1500]}
        except OSError as error:
            return self._tell_trouble(f"converting {order.convert}", error)

    def _prepare(self, chosen: Resume) -> dict[str, Any]:
        local_rank = ray.train.get_context().get_local_rank()
        if local_rank == 0:
            sweep_locks({**os.environ, **rankenv.job_env(self._contract, None)})
        try:
            self.resumed, read = resume.prepare(self._contract, self._rank, local_rank, chosen)
        except (resume.Damaged, FileNotFoundError) as error:
            path = getattr(error, "path", chosen.save or chosen.report)
            message = f"rank {self._rank}: {error}"
            return {"kind": "damaged", "number": chosen.number, "path": path, "message": message}
        except OSError as error:
            return self._tell_trouble(f"reading {chosen.save or chosen.report}", error)
        files = [file.to_wire() for file in read]
        return {"kind": "prepared", "number": chosen.number, "step": chosen.step, "files": files}

    def _tell_trouble(self, doing: str, error: OSError) -> dict[str, Any]:
        """The storage or this pod's disk fails, which says nothing of the checkpoint."""
        message = f"rank {self._rank}, {doing}: {type(error).__name__}: {error}"
        return {"kind": "no_storage", "message": message[:1500]}
