"""The supervisor of one rank of a script: what Ray Train runs in each of its workers.

It starts the script as a child, passes facts from the hook's socket to the board and obeys the
board's orders, also that of starting it again.  It returns whenever the program ended, however that
was: the board knows, and the driver asks it.  Only a broken trainer raises, and one that the head
no longer reaches.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import ray.train

from deepspeed_trainer import leaving
from deepspeed_trainer.board.ranks import Launch, Orders
from deepspeed_trainer.contract import Cause, EntrypointKind, RunContract
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV, ORDERS_FILE, SOCKET_ENV, SUPERVISOR_ENV
from deepspeed_trainer.rank import rankenv
from deepspeed_trainer.rank.child import ChildProcess
from deepspeed_trainer.rank.cores import TooFewCores, find_share, name_threads
from deepspeed_trainer.rank.ear import HookEar
from deepspeed_trainer.rank.facts import Fact, FactBuffer
from deepspeed_trainer.rank.kernel import count_oom_kills
from deepspeed_trainer.rank.link import (
    TICK_S,
    WAIT_TICK_S,
    BoardLink,
    hello,
    pause_s,
    reserve_port,
)
from deepspeed_trainer.rank.node import NodeFolder, RankEnding
from deepspeed_trainer.rank.starting import Starting
from deepspeed_trainer.rank.vitals import Vitals

LOGS_EVERY_S: Final = 60.0
"""How often logs go to a bucket while the program runs; a volume has them at once."""
NOT_STARTED: Final = RankEnding(1, stopped=True)
"""The end of a rank that was told to stop before its program was started."""


def supervise(config: Mapping[str, Any]) -> None:
    """Run one rank to its end, round after round; `config` holds the contract as JSON."""
    contract = RunContract.from_json(config["contract"])
    with leaving.tenancy(leaving.find_folder()):
        _supervise(contract, ray.train.get_context().get_world_rank())


def _supervise(contract: RunContract, rank: int) -> None:
    for restart in itertools.count():
        supervisor = Supervisor(contract, rank, restart)
        try:
            goes_again = supervisor.run()
        finally:
            supervisor.close()
        if not goes_again:
            return


class Supervisor:
    """One rank in one round: its child, its facts, its port and its line to the board."""

    def __init__(self, contract: RunContract, rank: int, restart: int) -> None:
        self._contract = contract
        self._rank = rank
        self._restart = restart
        self._wait_s = pause_s(contract.world_size, WAIT_TICK_S)
        self._tick_s = pause_s(contract.world_size, TICK_S)
        self._link = BoardLink(contract, rank, restart)
        self._facts = FactBuffer(contract, rank, restart)
        self._resumed = Resumed()
        self._logs: list[Path] = []
        self._logs_brought_at = monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="dsjob-"))
        self._port = reserve_port()
        self._orders = OrderPage.create(self._folder / ORDERS_FILE)
        self._ear = HookEar(self._folder / "hook", self._facts.put)
        self._vitals = Vitals(contract, rank, self._folder, self._facts.keeper.bring_log)

    def run(self) -> bool:
        """Wait for all ranks, run the script, wait for the board; True when it is to run again.

        Raises:
            HeadSilent: the head is out of reach; the program has been killed.
        """
        starting = Starting(self._contract, self._rank, self._link, self._wait_s)
        orders = starting.wait(hello(self._port.getsockname()[1]))
        if orders.go_again:
            return True
        self._resumed = starting.resumed
        oom_kills_before = count_oom_kills()
        ending = self._run(orders.launch)
        end = {**asdict(ending), "oom_kills": count_oom_kills() - oom_kills_before}
        self._ear.finish()
        self._facts.keeper.note_closed(has_failed=ending.exit_code != 0)
        orders = self._sync({"kind": "end", "end": end})
        while not (orders.may_leave or orders.go_again):
            sleep(self._wait_s)
            orders = self._sync()
        self._bring_logs()
        self._facts.keeper.finish()
        return orders.go_again

    def close(self) -> None:
        """Release port, socket and files."""
        self._facts.close()
        self._ear.finish()
        self._port.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _sync(self, *last: Fact) -> Orders:
        """Hand over what is new, and bring to the storage what the board asks for."""
        orders = self._link.sync([*self._facts.drain(), *last])
        self._facts.keeper.obey(orders.upload, orders.newest_save)
        if orders.save is not None:
            self._orders.write(orders.save.step, is_agreed=orders.save.is_agreed)
        if monotonic() - self._logs_brought_at > LOGS_EVERY_S:
            self._bring_logs()
        return orders

    def _bring_logs(self) -> None:
        self._logs_brought_at = monotonic()
        for log in self._logs:
            if log.exists():
                self._facts.keeper.bring_log(log)

    def _run(self, launch: Launch | None) -> RankEnding:
        """Run what this rank runs, to its end; one that was told to stop before has ended, too."""
        if launch is None:
            return NOT_STARTED
        self._facts.keeper.note_start(launch.local_rank, self._resumed.others)
        rankenv.program_checkpoint_dir(self._contract).mkdir(parents=True, exist_ok=True)
        if self._contract.entrypoint.per == "Node":
            node = NodeFolder(self._contract, launch, self._restart)
            return self._run_on_node(node, launch)
        try:
            cores = find_share(self._contract, launch)
        except TooFewCores as error:
            self._facts.put({"kind": "verdict", "cause": Cause.PLACEMENT, "message": str(error)})
            return RankEnding(1, tail=(str(error),))
        env = {
            **self._job_env(),
            **rankenv.rank_env(self._rank, self._contract.world_size, launch),
            **name_threads(self._contract, cores),
            SOCKET_ENV: str(self._folder / "hook"),
            SUPERVISOR_ENV: str(os.getpid()),
        }
        if self._contract.entrypoint.kind is EntrypointKind.COMMAND:
            env[DESCENDANTS_ENV] = "1"
            env |= rankenv.launchers_env(env)
        command = rankenv.rank_command(self._contract, env)
        log = rankenv.log_path(self._contract, self._rank)
        self._logs = [log] if log else []
        child = ChildProcess(command, env, f"[rank {self._rank}] ", log, cores=cores)
        return self._follow(child)

    def _run_on_node(self, node: NodeFolder, launch: Launch) -> RankEnding:
        """Run the node's command as its first rank, or wait for its end as another."""
        node.show_socket(self._folder / "hook")
        if launch.local_rank == 0:
            return node.conclude(self._run_command(node, launch))
        while (ending := node.read_ending()) is None:
            sleep(self._tick_s)
            if self._talk().must_stop and not node.has_first:
                return NOT_STARTED
        return ending

    def _run_command(self, node: NodeFolder, launch: Launch) -> RankEnding:
        if not node.await_neighbours(self._may_wait):
            return NOT_STARTED
        command, env = node.command(self._job_env())
        log = rankenv.node_log_path(self._contract, launch.node_rank)
        own = rankenv.log_path(self._contract, self._rank)
        self._logs = [path for path in (log, own) if path]
        return self._follow(ChildProcess(command, env, f"[node {launch.node_rank}] ", log))

    def _may_wait(self) -> bool:
        """Wait a moment for other ranks; False when there is nothing to wait for any more."""
        sleep(self._wait_s)
        return not self._talk().must_stop

    def _job_env(self) -> dict[str, str]:
        config_path = rankenv.write_config(self._contract, self._folder)
        job_env = rankenv.job_env(self._contract, config_path, self._restart)
        env = {**os.environ, **job_env, **self._resumed.to_env()}
        return {**env, "PYTHONPATH": rankenv.prepend_path(env, rankenv.RANK_SITE)}

    def _follow(self, child: ChildProcess) -> RankEnding:
        try:
            while (code := child.wait(self._tick_s)) is None:
                orders = self._talk()
                if orders.must_stop:
                    # A rank that waits after its save has nothing to finish.
                    waits = orders.save is not None and orders.save.is_agreed
                    child.stop(0 if waits else self._contract.stop_grace_s)
        except BaseException:
            child.kill()
            raise
        return RankEnding(code, child.was_stopped, tuple(child.tail))

    def _talk(self) -> Orders:
        """Tell what is new while the program runs, and take the dump that is wanted."""
        orders = self._sync(*self._vitals.facts())
        if not orders.must_stop:
            self._vitals.obey(orders.dump)
        return orders
