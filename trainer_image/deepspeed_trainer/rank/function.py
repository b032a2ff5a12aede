"""A train loop, ours or a driver program's: it runs inside Ray Train's worker, which is the rank.

The hooks are installed in the worker itself and a thread talks to the board.  A function cannot be
stopped from outside, so an order to stop ends the whole worker process, and so does a head that is
out of reach.  To start again is Ray Train's business: a new group has new workers.
"""

import importlib
import inspect
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep
from typing import Any

import ray.train
import torch.distributed

from deepspeed_trainer import leaving
from deepspeed_trainer.board.ranks import Launch, Orders
from deepspeed_trainer.contract import Cause, EntrypointKind, RunContract
from deepspeed_trainer.hooks.engine import EngineWatch
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.patching import PatchOnImport
from deepspeed_trainer.hooks.reports import answer_for
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.rank import rankenv
from deepspeed_trainer.rank.cores import TooFewCores, bind_this_process, find_share, name_threads
from deepspeed_trainer.rank.facts import Fact, FactBuffer
from deepspeed_trainer.rank.kernel import count_oom_kills
from deepspeed_trainer.rank.link import TICK_S, WAIT_TICK_S, BoardLink, hello, pause_s
from deepspeed_trainer.rank.starting import Starting
from deepspeed_trainer.rank.vitals import Vitals


def run_function(config: Mapping[str, Any]) -> Any:
    """Run one rank of a `function` to its end; `config` holds the contract as JSON.

    Raises whatever the function raises, so that Ray Train ends the ranks that wait for it.
    """
    contract = RunContract.from_json(config["contract"])
    _run_rank(contract, config["restart"], lambda: _call(contract))


def run_train_loop(
    loop: Callable[..., Any], contract_json: str, restart: int, config: Mapping[str, Any]
) -> Any:
    """Run one rank of a driver program's own train loop, and pass on what it raises or returns."""
    contract = RunContract.from_json(contract_json)
    arguments = (config,) if _wants_config(loop) else ()
    return _run_rank(contract, restart, lambda: loop(*arguments))


def _run_rank(contract: RunContract, restart: int, call: Callable[[], Any]) -> Any:
    with leaving.tenancy(leaving.find_folder()):
        return _train(contract, restart, call)


def _train(contract: RunContract, restart: int, call: Callable[[], Any]) -> Any:
    rank = ray.train.get_context().get_world_rank()
    agent = _Agent(contract, rank, restart)
    launch, resumed = agent.wait_for_start()
    oom_kills_before = count_oom_kills()
    try:
        _prepare_process(contract, launch, resumed, restart)
        result = call()
    except BaseException as error:
        code, tail = _describe_error(error)
        agent.end(code, tail, count_oom_kills() - oom_kills_before, _verdict(error, contract))
        if code != 0:
            raise
        return None
    agent.end(0, (), 0, None)
    return result


class _Agent:
    """The rank's line to the board, in a thread beside the function."""

    def __init__(self, contract: RunContract, rank: int, restart: int) -> None:
        self._contract = contract
        self._rank = rank
        self._wait_s = pause_s(contract.world_size, WAIT_TICK_S)
        self._tick_s = pause_s(contract.world_size, TICK_S)
        self._link = BoardLink(contract, rank, restart)
        self._facts = FactBuffer(contract, rank, restart)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="board", daemon=True)
        page = Page.anonymous()
        self._vitals = Vitals(contract, rank, page, self._facts.keeper.bring_log)
        self._orders = OrderPage.anonymous()
        self._watch = EngineWatch(rank, self._facts.put, lambda: page, self._orders)
        PatchOnImport(self._watch.patches(), self._facts.put).install()

    def wait_for_start(self) -> tuple[Launch, Resumed]:
        """Wait until the head has seen all ranks in their places; returns what to continue from."""
        starting = Starting(self._contract, self._rank, self._link, self._wait_s)
        launch = starting.wait(hello(0)).launch
        if launch is None:
            # Nobody shall wait for this rank until Ray Train has seen how it ended.
            self._sync({"kind": "end", "end": {"exit_code": 1, "stopped": True}})
            raise RuntimeError("the head does not let this attempt start")
        self._facts.keeper.note_start(launch.local_rank, starting.resumed.others)
        answer_for(self._facts.put, self._watch.describe_progress, starting.resumed.report)
        size = torch.distributed.get_world_size()
        self._facts.put({"kind": "hook"})
        self._facts.put({"kind": "group", "size": size})
        self._thread.start()
        return launch, starting.resumed

    def end(self, code: int, tail: tuple[str, ...], oom_kills: int, verdict: Cause | None) -> None:
        """Tell how the function ended and wait until the board lets go."""
        self._ended.set()
        self._thread.join()
        self._facts.keeper.note_closed(has_failed=code != 0)
        facts: list[Fact] = []
        if verdict is not None:
            facts.append({"kind": "verdict", "cause": verdict, "message": tail[-1]})
        end = {"exit_code": code, "oom_kills": oom_kills, "tail": tail}
        self._sync(*facts, {"kind": "end", "end": end})
        while not self._sync().may_leave:
            sleep(self._wait_s)
        self._facts.close()

    def _sync(self, *last: Fact) -> Orders:
        orders = self._link.sync([*self._facts.drain(), *last])
        self._facts.keeper.obey(orders.upload, orders.newest_save)
        if orders.save is not None:
            self._orders.write(orders.save.step, is_agreed=orders.save.is_agreed)
        return orders

    def _talk(self) -> None:
        while not self._ended.wait(self._tick_s):
            try:
                orders = self._sync(*self._vitals.facts())
            except Exception as error:  # noqa: BLE001  whatever it is, nobody hears this rank
                sys.stderr.write(f"[trainer] this rank ends: {error}\n")
                sys.stderr.flush()
                orders = Orders(must_stop=True)
            if orders.must_stop:
                os.kill(os.getpid(), signal.SIGKILL)
            self._vitals.obey(orders.dump)


def _prepare_process(contract: RunContract, launch: Launch, resumed: Resumed, restart: int) -> None:
    """Set what a script's rank would find in its environment, and bind it to its cores.

    Raises:
        TooFewCores: the pod has none for every rank.
    """
    folder = Path(tempfile.mkdtemp(prefix="dsjob-"))
    config_path = rankenv.write_config(contract, folder)
    job_env = rankenv.job_env(contract, config_path, restart)
    os.environ.update({**job_env, **resumed.to_env()})
    if cores := find_share(contract, launch):
        bind_this_process(cores)
        os.environ.update(name_threads(contract, cores))
    os.environ.setdefault("LOCAL_SIZE", os.environ["LOCAL_WORLD_SIZE"])
    nodes = contract.nodes
    os.environ.setdefault("CROSS_SIZE", str(nodes))
    os.environ.setdefault("CROSS_RANK", os.environ["NODE_RANK"])
    rankenv.program_checkpoint_dir(contract).mkdir(parents=True, exist_ok=True)


def _wants_config(loop: Callable[..., Any]) -> bool:
    """As Ray decides it: a train loop is given its configuration when it cannot do without."""
    parameters = inspect.signature(loop).parameters.values()
    return any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)


def _call(contract: RunContract) -> Any:
    module_name, _, name = contract.entrypoint.target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module_name), name)
    if inspect.signature(function).parameters:
        return function(dict(contract.entrypoint.config))
    return function()


def _describe_error(error: BaseException) -> tuple[int, tuple[str, ...]]:
    """Return exit code and last lines as a script that raised this would have left them."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0, ()
        return 1, (str(error.code),)
    lines = "".join(traceback.format_exception(error)).splitlines()
    return 1, tuple(lines[-60:])


def _verdict(error: BaseException, contract: RunContract) -> Cause | None:
    """What is not there, a module or a core, is no error inside the training."""
    if isinstance(error, TooFewCores):
        return Cause.PLACEMENT
    if contract.entrypoint.kind is not EntrypointKind.FUNCTION:
        return None
    module_name, _, name = contract.entrypoint.target.partition(":")
    is_missing = isinstance(error, ModuleNotFoundError) and error.name in _parents(module_name)
    has_no_function = isinstance(error, AttributeError) and error.name == name
    return Cause.IMPORT_FAILED if is_missing or has_no_function else None


def _parents(module_name: str) -> set[str]:
    parts = module_name.split(".")
    return {".".join(parts[: count + 1]) for count in range(len(parts))}
