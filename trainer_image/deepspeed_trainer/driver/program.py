"""A driver program: the user's own TorchTrainer program, run once, as a child of the driver.

Its RunConfig and TorchTrainer are fitted to the job by `program_hook`; here it is started, watched
and its end turned into a verdict.  What its ranks did is on the board, as for every entrypoint.
"""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

from deepspeed_trainer.board.failures import describe_program_end
from deepspeed_trainer.board.ranks import Verdict
from deepspeed_trainer.checkpoints.stores import open_store
from deepspeed_trainer.contract import (
    CONTRACT_ENV,
    EXIT_SUCCEEDED,
    RunContract,
    attempt_path,
)
from deepspeed_trainer.hooks.wire import PROGRAM_ENV, SOCKET_ENV, SUPERVISOR_ENV
from deepspeed_trainer.rank import rankenv
from deepspeed_trainer.rank.child import ChildProcess
from deepspeed_trainer.rank.ear import HookEar
from deepspeed_trainer.rank.kernel import count_oom_kills

POLL_S: Final = 0.2
LOG_EVERY_S: Final = 60.0
"""How often its log goes to a bucket while it runs."""
LOG_NAME: Final = "driver.log"
PREFIX: Final = "[driver] "


class Line(Protocol):
    """The driver's line to the board, as far as a program needs it."""

    was_stopped: bool

    def note_override(self, sentence: str) -> None:
        """Show which setting gave way to the job's."""


class Program:
    """A driver program, once: it starts at once, and waits at its trainer until the job follows.

    What it imports until then takes longer than all that the job's own driver has to do.
    """

    def __init__(self, contract: RunContract, restart: int = 0) -> None:
        """Start it."""
        self._contract = contract
        self._line: Line | None = None
        self._has_line = threading.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="dsjob-"))
        self._ear = HookEar(self._folder / "hook", self._pass_on)
        env = {
            **program_env(contract, rankenv.write_config(contract, self._folder), restart),
            SOCKET_ENV: str(self._folder / "hook"),
        }
        entrypoint, log = contract.entrypoint, rankenv.log_folder(contract)
        args = [rankenv.expand(arg, env) for arg in entrypoint.args]
        self._oom_kills_before = count_oom_kills()
        command = [*rankenv.python_command(entrypoint), *args]
        self._log = _Log(contract, log / LOG_NAME if log else None)
        self._child = ChildProcess(command, env, PREFIX, self._log.path)

    def run(self, line: Line) -> Verdict:
        """Let it train and wait for its end.

        When the line was stopped the program is asked to end, and after the grace killed.
        """
        self._line = line
        self._has_line.set()
        while (code := self._child.wait(POLL_S)) is None:
            if line.was_stopped:
                self._child.stop(self._contract.stop_grace_s)
            self._log.bring_when_due()
        self._ear.finish()
        self._log.bring()
        shutil.rmtree(self._folder, ignore_errors=True)
        if code == EXIT_SUCCEEDED or self._child.was_stopped:
            return Verdict()
        oom_kills = count_oom_kills() - self._oom_kills_before
        return Verdict(program=describe_program_end(code, self._child.tail, oom_kills))

    def end(self) -> None:
        """End a program whose attempt did not come about."""
        self._child.stop(0)
        while self._child.wait(POLL_S) is None:
            self._child.stop(0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pass_on(self, fact: Mapping[str, Any]) -> None:
        self._has_line.wait()
        if fact["kind"] == "override" and self._line is not None:
            self._line.note_override(fact["sentence"])


class _Log:
    """The program's log on its way to a bucket; on a volume it is there at once."""

    def __init__(self, contract: RunContract, path: Path | None) -> None:
        self.path = path
        storage = contract.storage if contract.volume is None else None
        self._store = open_store(storage) if storage else None
        folder = attempt_path(contract.job, contract.run, contract.attempt)
        self._target = f"{folder}/logs/{LOG_NAME}"
        self._brought_at = monotonic()

    def bring_when_due(self) -> None:
        """Upload it once a minute."""
        if monotonic() - self._brought_at > LOG_EVERY_S:
            self.bring()

    def bring(self) -> None:
        """Upload it as it is now; a log is not worth a training."""
        self._brought_at = monotonic()
        if self._store is None or self.path is None or not self.path.exists():
            return
        try:
            self._store.keep(self.path, self._target)
        except OSError as error:
            sys.stderr.write(f"{LOG_NAME} was not uploaded: {error}\n")


def program_env(
    contract: RunContract, config_path: Path | None, restart: int = 0
) -> dict[str, str]:
    """Return the whole environment of the program."""
    env = {
        **os.environ,
        **rankenv.job_env(contract, config_path, restart),
        CONTRACT_ENV: contract.to_json(),
        # The job's cluster, never one that the program would start for itself.
        "RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "auto"),
        PROGRAM_ENV: "1",
        SUPERVISOR_ENV: str(os.getpid()),
    }
    env["PYTHONPATH"] = rankenv.prepend_path(env, rankenv.RANK_SITE)
    return env
