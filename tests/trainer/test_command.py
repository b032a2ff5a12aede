"""A command or a module per rank trains like a script, and is seen, stopped and tied like one."""

import os
import signal
from pathlib import Path
from typing import Any

from deepspeed_trainer.contract import Cause, Entrypoint, EntrypointKind, RunPhase
from tests.trainer.attempts import Job, Outcome
from tests.trainer.processes import lives, parent_of
from tests.trainer.raycluster import RayCluster, wait_until


def entry(kind: EntrypointKind, target: str, *args: str, **more: Any) -> dict[str, Entrypoint]:
    return {"entrypoint": Entrypoint(kind, target, args, **more)}


def run(job: Job, kind: EntrypointKind, target: str, *args: str) -> Outcome:
    return job.run(1, target, **entry(kind, target, *args))


def test_python_below_a_shell_is_seen_and_its_saves_are_committed(
    cluster: RayCluster, storage: Path
) -> None:
    command = (EntrypointKind.COMMAND, "./train.sh", "--steps=5")
    outcome = run(Job(cluster, storage), *command)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert outcome.progress.step == 5
    assert outcome.progress.checkpoint is not None
    assert outcome.progress.notice is None
    lines = outcome.rank_log(0).splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")


def test_a_command_that_is_not_there_is_named(cluster: RayCluster, storage: Path) -> None:
    outcome = run(Job(cluster, storage), EntrypointKind.COMMAND, "./absent.sh")
    failure = outcome.progress.failure
    assert failure is not None
    assert failure.cause is Cause.IMPORT_FAILED
    assert "./absent.sh" in failure.message


def test_a_module_is_run_and_references_are_filled_in(cluster: RayCluster, storage: Path) -> None:
    outcome = run(
        Job(cluster, storage), EntrypointKind.MODULE, "pkg.train", "--steps=2", "--tag=$(DSJOB_RUN)"
    )
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log
    assert "--tag=run-1" in outcome.said(0)["argv"]


def test_a_missing_module_is_an_import_that_failed(cluster: RayCluster, storage: Path) -> None:
    failure = run(Job(cluster, storage), EntrypointKind.MODULE, "no.such").progress.failure
    assert failure is not None
    assert failure.cause is Cause.IMPORT_FAILED


def test_ranks_that_say_so_need_no_group(cluster: RayCluster, storage: Path) -> None:
    script = entry(EntrypointKind.COMMAND, "true")
    outcome = Job(cluster, storage).run(1, "true", distributed=False, **script)
    assert outcome.progress.phase is RunPhase.SUCCEEDED, outcome.log


def test_what_a_command_started_dies_with_its_supervisor(
    cluster: RayCluster, storage: Path, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    shell = f"python3 plain.py x hang-1 {note}; true"
    job = Job(cluster, storage)
    contract = job.contract(1, "sh", **entry(EntrypointKind.COMMAND, "sh", "-c", shell))
    driver = job.start(contract)
    wait_until(lambda: note.exists() and note.read_text(), "the program did not start")
    program = int(note.read_text())
    os.kill(parent_of(parent_of(program)), signal.SIGKILL)
    job.finish(contract, driver)
    wait_until(lambda: not lives(program), "the program lives on")
