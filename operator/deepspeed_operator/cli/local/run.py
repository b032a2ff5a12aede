"""`dsjob run --local`, from the given objects to the end of the job."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deepspeed_operator.cli.ends import Refused
from deepspeed_operator.cli.follow import Follower
from deepspeed_operator.cli.local.interpreter import find_interpreter
from deepspeed_operator.cli.local.plan import Plan, Wishes, plan_run, refuse_missing_devices
from deepspeed_operator.cli.local.session import Session
from deepspeed_operator.cli.manifests import Object
from deepspeed_operator.cli.picture import Job


@dataclass(frozen=True, slots=True)
class LocalEnd:
    """How a local run ended."""

    job: Job
    last_words: Sequence[str]
    """The last lines of the ranks, and where the rest lies."""


def run_local(
    objects: Sequence[Object],
    wishes: Wishes,
    say: Callable[[str], None],
    now: Callable[[], datetime],
    *,
    python: str | None,
    workdir: Path,
    deadline_s: float | None,
) -> LocalEnd:
    """Check, start, follow and stop one attempt of a job on this machine.

    Raises:
        Refused: a cluster would not run it either.
        WrongUse: the files do not hold what the job names.
        Unavailable: packages or devices are missing here.
        TooLate: the deadline passed; the run was stopped.
    """
    try:
        plan = plan_run(objects, wishes, say, now=now(), cores=os.cpu_count() or 1)
    except Refused as refusal:
        listed = [f"  {field}: {message}" for field, message in refusal.causes]
        raise Refused("\n".join([str(refusal), *listed])) from refusal
    spec = plan.view.spec
    wants_devices = spec.accelerator.type != "CPU"
    interpreter = find_interpreter(python, with_devices=wants_devices)
    if interpreter.notice is not None:
        say(interpreter.notice)
    refuse_missing_devices(spec, interpreter.devices)
    if plan.code is not None:
        workdir = _write_code(plan)
    say(_announce(plan, workdir))
    devices = _choose_devices(spec.nodes * spec.gpus_per_node) if wants_devices else []
    with Session(plan, interpreter.path, workdir, devices, now) as session:
        follower = Follower(
            session.look,
            say,
            lambda _: session.last_words(),
            deadline_s=deadline_s,
            afterwards="it is stopped",
        )
        job = follower.follow()
        return LocalEnd(job, session.last_words())


def _write_code(plan: Plan) -> Path:
    """Write the files of code.configMap beside the logs; returns their folder."""
    folder = plan.folder / "code"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (plan.code or {}).items():
        path = folder / Path(name).name
        path.write_text(text)
        path.chmod(0o755)  # as in a pod: a ConfigMap cannot say what is executable
    return folder


def _announce(plan: Plan, workdir: Path) -> str:
    order = plan.contract
    what = "continues" if order.attempt > 1 else "runs"
    return (
        f"{order.job.name} {what} here: nodes {order.nodes}, ranks per node {order.ranks_per_node},"
        f" accelerator {order.accelerator}, program from {workdir.resolve()},"
        f" storage {order.storage}"
    )


def _choose_devices(count: int) -> list[str]:
    """Return the ids of the first devices that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(index) for index in range(count)]
    return ids[:count]
