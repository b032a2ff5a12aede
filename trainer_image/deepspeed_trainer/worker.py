"""The supervisor of one rank of a script: what Ray Train runs in each of its workers.

It starts the script as a child, passes facts from the hook's socket to the board and obeys the
board's orders.  It returns whenever the program ended, however that was: the board knows, and the
driver asks it.  Only a broken trainer raises.
"""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Any

import ray.train

from deepspeed_trainer import rankenv
from deepspeed_trainer.attempt import Launch, Orders
from deepspeed_trainer.child import RankProcess
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.facts import FactBuffer
from deepspeed_trainer.hook import SOCKET_ENV, SUPERVISOR_ENV
from deepspeed_trainer.kernel import count_oom_kills
from deepspeed_trainer.link import (
    TICK_S,
    WAIT_TICK_S,
    BoardLink,
    hello,
    pause_s,
    reserve_port,
)


def supervise(config: Mapping[str, Any]) -> None:
    """Run one rank to its end; `config` holds the contract as JSON."""
    contract = RunContract.from_json(config["contract"])
    rank = ray.train.get_context().get_world_rank()
    supervisor = Supervisor(contract, rank)
    try:
        supervisor.run()
    finally:
        supervisor.close()


class Supervisor:
    """One rank: its child, its facts and its line to the board."""

    def __init__(self, contract: RunContract, rank: int) -> None:
        self._contract = contract
        self._rank = rank
        self._wait_s = pause_s(contract.world_size, WAIT_TICK_S)
        self._tick_s = pause_s(contract.world_size, TICK_S)
        self._link = BoardLink(contract.submission_id, rank)
        self._facts = FactBuffer(rank, contract.storage, self._link.give_up_save)
        self._folder = Path(tempfile.mkdtemp(prefix="dsjob-"))
        self._port = reserve_port()
        self._ear = HookEar(self._folder / "hook", self._facts)

    def run(self) -> None:
        """Wait for all ranks, run the script, wait until the board lets go."""
        orders = self._link.sync([hello(self._port.getsockname()[1])])
        while orders.launch is None and not orders.must_stop:
            sleep(self._wait_s)
            orders = self._link.sync([])
        if orders.launch is None:
            return
        child = self._start(orders.launch)
        oom_kills_before = count_oom_kills()
        code = self._follow(child)
        end = {
            "exit_code": code,
            "stopped": child.was_stopped,
            "oom_kills": count_oom_kills() - oom_kills_before,
            "tail": tuple(child.tail),
        }
        self._ear.finish()
        orders = self._link.sync([*self._facts.drain(), {"kind": "end", "end": end}])
        while not orders.may_leave:
            sleep(self._wait_s)
            orders = self._link.sync(self._facts.drain())

    def close(self) -> None:
        """Release port, socket and files."""
        self._facts.close()
        self._ear.finish()
        self._port.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, launch: Launch) -> RankProcess:
        contract = self._contract
        config_path = rankenv.write_config(contract, self._folder)
        env = {
            **os.environ,
            **rankenv.job_env(contract, config_path),
            **rankenv.rank_env(self._rank, contract.world_size, launch),
            SOCKET_ENV: str(self._folder / "hook"),
            SUPERVISOR_ENV: str(os.getpid()),
        }
        env["PYTHONPATH"] = rankenv.prepend_path(env, rankenv.RANK_SITE)
        rankenv.program_checkpoint_dir(contract).mkdir(parents=True, exist_ok=True)
        command = rankenv.script_command(contract, launch, config_path)
        return RankProcess(command, env, self._rank, rankenv.log_path(contract, self._rank))

    def _follow(self, child: RankProcess) -> int:
        orders = Orders()
        while (code := child.wait(self._tick_s)) is None:
            orders = self._link.sync(self._facts.drain())
            if orders.must_stop:
                child.stop(self._contract.stop_grace_s)
        return code


class HookEar:
    """Listens to the hook in the child: JSON lines over a unix socket, one connection."""

    def __init__(self, path: Path, facts: FactBuffer) -> None:
        self._facts = facts
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._thread = threading.Thread(target=self._listen, name="hook", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Take what the child still had to say; it has ended or never called."""
        with contextlib.suppress(OSError):  # already closed
            self._server.shutdown(socket.SHUT_RDWR)  # wakes accept; close alone does not
        self._server.close()
        self._thread.join(2.0)

    def _listen(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:
            return  # closed before anybody called
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    fact = json.loads(line)
                    self._facts.put(fact)
                    if fact["kind"] == "saving":
                        connection.sendall(b"\n")
            except Exception as error:  # noqa: BLE001  the program goes on without its hook
                self._facts.put({"kind": "hook", "failure": f"supervisor: {error!r}"[:500]})
