"""A driver program: the user's own TorchTrainer program, run once, as a child of the driver.

Its RunConfig and TorchTrainer are fitted to the job by `program_hook`; here it is started, watched
and its end turned into a verdict.  What its ranks did is on the board, as for every entrypoint.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from deepspeed_trainer import rankenv
from deepspeed_trainer.child import ChildProcess
from deepspeed_trainer.contract import CONTRACT_ENV, EXIT_SUCCEEDED, RunContract
from deepspeed_trainer.ear import HookEar
from deepspeed_trainer.failures import describe_program_end
from deepspeed_trainer.kernel import count_oom_kills
from deepspeed_trainer.ranks import Verdict
from deepspeed_trainer.wire import PROGRAM_ENV, RESUME_ENV, SOCKET_ENV, SUPERVISOR_ENV

POLL_S: Final = 0.2
LOG_NAME: Final = "driver.log"
PREFIX: Final = "[driver] "


class Line(Protocol):
    """The driver's line to the board, as far as a program needs it."""

    was_stopped: bool

    def note_override(self, sentence: str) -> None:
        """Show which setting gave way to the job's."""

    @property
    def ray_address(self) -> str:
        """Where the Ray cluster is reached."""


def run_program(contract: RunContract, resume: str, line: Line) -> Verdict:
    """Run the program to its end; `resume` is what get_checkpoint answers its ranks.

    When the line was stopped the program is asked to end, and after the grace killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="dsjob-"))
    ear = HookEar(folder / "hook", lambda fact: _pass_on(fact, line))
    env = {
        **program_env(contract, line.ray_address, rankenv.write_config(contract, folder)),
        RESUME_ENV: resume,
        SOCKET_ENV: str(folder / "hook"),
    }
    entrypoint = contract.entrypoint
    args = [rankenv.expand(arg, env) for arg in entrypoint.args]
    log = rankenv.log_folder(contract)
    oom_kills_before = count_oom_kills()
    child = ChildProcess(
        [*rankenv.python_command(entrypoint), *args], env, PREFIX, log / LOG_NAME if log else None
    )
    while (code := child.wait(POLL_S)) is None:
        if line.was_stopped:
            child.stop(contract.stop_grace_s)
    ear.finish()
    shutil.rmtree(folder, ignore_errors=True)
    if code == EXIT_SUCCEEDED or child.was_stopped:
        return Verdict()
    oom_kills = count_oom_kills() - oom_kills_before
    return Verdict(program=describe_program_end(code, child.tail, oom_kills))


def _pass_on(fact: Mapping[str, Any], line: Line) -> None:
    if fact["kind"] == "override":
        line.note_override(fact["sentence"])


def program_env(contract: RunContract, address: str, config_path: Path | None) -> dict[str, str]:
    """Return the whole environment of the program."""
    env = {
        **os.environ,
        **rankenv.job_env(contract, config_path),
        CONTRACT_ENV: contract.to_json(),
        "RAY_ADDRESS": address,
        PROGRAM_ENV: "1",
        SUPERVISOR_ENV: str(os.getpid()),
    }
    env["PYTHONPATH"] = rankenv.prepend_path(env, rankenv.RANK_SITE)
    return env
