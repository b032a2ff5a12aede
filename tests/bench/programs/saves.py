"""How long a save holds up the training loop beyond DeepSpeed's own work, by its size.

Started by tests.bench.saves.  One rank: a real engine with the real hooks, and
a supervisor in a process of its own with the real keeper, as beside every rank.  Everything is
DeepSpeed's but the bytes of the optimizer's file: below TorchCheckpointEngine.save they are written
at the wanted size, because a model of that size would not fit beside others here.  The save before
is on the storage before the next begins.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from deepspeed_trainer.contract import ATTEMPT_ENV, CHECKPOINT_DIR_ENV, RunContract
from deepspeed_trainer.hooks.wire import Wire
from deepspeed_trainer.rank.ear import HookEar
from deepspeed_trainer.rank.facts import FactBuffer
from deepspeed_trainer.rank.rankenv import program_checkpoint_dir
from tests.pure.deepspeed_trainer.makers import a_contract
from tests.trainer.raycluster import free_ports
from tests.trainer.s3 import S3Server, find_server

GB = 1_000_000_000
SIZES_GB = (0.1, 1.0, 4.0)
RESULT = "saves: "
"""Begins the line that the figures are in."""
BLOCK = os.urandom(16 * 1024 * 1024)
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
}


def supervise(socket: str, contract_json: str) -> None:
    """Be the rank's supervisor: hold what is saved, and bring each closed save at once."""
    buffer = FactBuffer(RunContract.from_json(contract_json), rank=0)
    ear = HookEar(Path(socket), buffer.put)
    print("ready", flush=True)
    while os.getppid() != 1:
        for fact in buffer.drain():
            if fact["kind"] == "closed":
                buffer.keeper.obey(fact["number"], fact["number"])
            if fact["kind"] in {"brought", "save_lost"}:
                print(json.dumps({**fact, "files": len(fact.get("files", ()))}), flush=True)
        time.sleep(0.02)
    ear.finish()
    buffer.close()


class Rank:
    """An engine whose saves have a size of our choice, with the hooks around it."""

    def __init__(self) -> None:
        import deepspeed
        import torch
        from deepspeed.runtime import engine as engine_module
        from deepspeed.runtime.checkpoint_engine import torch_checkpoint_engine as writer_module

        self.own_s = 0.0
        self.size_bytes = 0
        self._wire: Wire | None = None
        self._write_big_files(writer_module.TorchCheckpointEngine)
        self._time_saves(engine_module.DeepSpeedEngine)
        self.hooks = self._install(engine_module, writer_module)
        deepspeed.init_distributed("gloo")
        net = torch.nn.Linear(64, 64)
        self.engine, *_ = deepspeed.initialize(
            model=net, model_parameters=net.parameters(), config=CONFIG
        )

    def use(self, wire: Wire) -> None:
        """Talk to this supervisor from now on."""
        self._wire = wire

    def save(self, folder: Path, tag: str) -> float:
        """Save once and close the save; returns the seconds beyond DeepSpeed's own."""
        began = time.perf_counter()
        self.engine.save_checkpoint(str(folder), tag=tag)
        self.hooks._saves.close()
        return time.perf_counter() - began - self.own_s

    def _tell(self, fact: Mapping[str, Any]) -> None:
        if self._wire is not None:
            self._wire.report(fact)

    def _install(self, engine_module: Any, writer_module: Any) -> Any:
        from deepspeed_trainer.hooks.engine import EngineWatch
        from deepspeed_trainer.hooks.page import Page

        watch = EngineWatch(0, self._tell, Page.anonymous)
        watch.patch_engine(engine_module)
        watch._saves.patch_writer(writer_module)
        return watch

    def _write_big_files(self, writer: Any) -> None:
        save = writer.save

        def write(engine: Any, state: Any, path: str, *args: Any) -> None:
            if "optim_states" not in path:
                save(engine, state, path, *args)
                return
            with Path(path).open("wb") as file:
                starts = range(0, self.size_bytes, len(BLOCK))
                file.writelines(BLOCK[: self.size_bytes - at] for at in starts)

        writer.save = write

    def _time_saves(self, owner: Any) -> None:
        save: Callable[..., Any] = owner.save_checkpoint

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = save(*args, **kwargs)
            self.own_s = time.perf_counter() - began
            return result

        owner.save_checkpoint = timed


@contextmanager
def supervisor(contract: RunContract, folder: Path) -> Iterator[Any]:
    """Start a supervisor; yields its words, one a line."""
    socket = folder / "hook"
    command = [sys.executable, "-m", "tests.bench.programs.saves", "--supervise", str(socket)]
    process = subprocess.Popen(
        [*command, contract.to_json()], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.stdout
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def measure(rank: Rank, storage: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Save some times at each size; returns seconds by size."""
    found = {}
    for size_gb in SIZES_GB:
        contract = a_contract(storage=storage, submission_id=f"bench-{os.getpid()}-{size_gb}")
        saved = program_checkpoint_dir(contract)
        os.environ[CHECKPOINT_DIR_ENV] = str(saved)
        rank.size_bytes = int(size_gb * GB)
        beyond, own = [], []
        with supervisor(contract, folder) as said:
            rank.use(Wire(str(folder / "hook")))
            for number in range(rounds + 1):
                beyond.append(rank.save(saved, f"step{number}"))
                own.append(rank.own_s)
                word = json.loads(said.readline())
                assert word["kind"] == "brought", word
                shutil.rmtree(saved)
                _forget(storage, folder)
        # The first one pays for imports and connections.
        found[size_gb] = {"beyond_s": beyond[1:], "own_s": own[1:]}
    return found


def _forget(storage: str, folder: Path) -> None:
    """Make room: what was brought is not wanted again."""
    root = folder / "s3" / "runs" if "://" in storage else Path(storage)
    for path in [path for path in root.rglob("*optim_states.pt") if path.is_file()]:
        path.unlink()


def main() -> None:
    """Measure volume and bucket, and print the seconds as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--supervise", nargs=2)
    args = parser.parse_args()
    if args.supervise:
        supervise(*args.supervise)
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(free_ports(1)[0]), "DS_ACCELERATOR": "cpu", ATTEMPT_ENV: "1"}
    rank = Rank()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        volume = folder / "volume"
        volume.mkdir()
        with S3Server(folder) if find_server() else nullcontext() as server:
            storages = {"volume": str(volume)}
            if server is not None:
                os.environ |= server.env
                storages["bucket"] = server.uri
            for kind, storage in storages.items():
                result[kind] = measure(rank, storage, folder, args.rounds)
    print(f"{RESULT}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
