"""What `deepspeed`, `torchrun`, `mpirun` and `accelerate` are inside a command.

`python -m deepspeed_trainer.rank.shim NAME WORD…` reads the launcher's words, starts this node's
ranks with the environment that the job gives them, and ends as the launcher would: the first rank
that fails ends the others of its node, and its exit code is the launcher's.  It is found on PATH
before the real one.  In a command that runs per rank it refuses, because every rank would start
all the others.
"""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

from deepspeed_trainer.contract import RESTART_ENV, RUN_ENV
from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV, SUPERVISOR_ENV
from deepspeed_trainer.launchers.hosts import share_cores
from deepspeed_trainer.launchers.read import read_env_file, read_launch
from deepspeed_trainer.launchers.request import (
    LauncherRefused,
    LaunchRequest,
    ProgramKind,
    refuse_other_size,
)
from deepspeed_trainer.rank.child import ChildProcess
from deepspeed_trainer.rank.node import NODE_ENV, NodeOrder, RankEnding, RankStart
from deepspeed_trainer.rank.rankenv import LAUNCHERS_PATH, RANK_SITE, TIED_COMMAND

EXIT_REFUSED: Final = 2
POLL_S: Final = 0.1
OWN_PREFIX: Final = "DSJOB_"
"""How all variables begin by which the job speaks to a program."""
ALIASES: Final = {"mpiexec": "mpirun"}
PER_RANK: Final = (
    "{name} starts a process for every rank of a node, and this command runs once per rank: say"
    " entrypoint.per: Node, or start the program itself"
)


def main() -> int:
    """Be the launcher that the first word names."""
    name, words = sys.argv[1], sys.argv[2:]
    launcher, order = ALIASES.get(name, name), os.environ.get(NODE_ENV)
    try:
        if launcher == "accelerate" and words[:1] != ["launch"]:
            os.execv(find_real(name), [name, *words])  # noqa: S606  its other verbs start no ranks
        if order is not None:
            start = launch_as_accelerate if launcher == "accelerate" else launch
            return start(launcher, words, NodeOrder.from_json(order))
        sys.stderr.write(f"{PER_RANK.format(name=name)}\n")
    except LauncherRefused as error:
        sys.stderr.write(f"{error}\n")
    return EXIT_REFUSED


def launch(launcher: str, words: Sequence[str], order: NodeOrder) -> int:
    """Carry out a launcher's command line on this node and return its exit code.

    Raises:
        LauncherRefused: it asks for what this job is not.
    """
    request = read_launch(launcher, words, hosts=order.hosts, read_file=_read_file)
    if launcher == "deepspeed":
        env = read_env_file(os.environ.get("DS_ENV_FILE", ".deepspeed_env"), _read_file)
        request = replace(request, env=env)
    return run(request, order)


def run(request: LaunchRequest, order: NodeOrder) -> int:
    """Start this node's ranks and wait for them; only one launcher at a time may do so.

    Raises:
        LauncherRefused: the job has another size, or another launcher is at work.
    """
    refuse_other_size(request, len(order.hosts), len(order.ranks))
    with (Path(order.folder) / "launcher.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LauncherRefused(
                f"{request.launcher}: another launcher is at work on this node; a job trains one"
                " program at a time"
            ) from None
        return _NodeRanks(request, order).run()


class _NodeRanks:
    """The ranks of this node, from their start to the last one's end."""

    def __init__(self, request: LaunchRequest, order: NodeOrder) -> None:
        self._order = order
        self._must_stop = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        cores = [_cores(request, order, rank) for rank in order.ranks]
        _say(request, order)
        self._children = [
            _start(request, order, rank, share)
            for rank, share in zip(order.ranks, cores, strict=True)
        ]

    def run(self) -> int:
        """Wait for all, leave word of how each ended, return the launcher's exit code."""
        codes: list[int | None] = [None] * len(self._children)
        while None in codes:
            for index, child in enumerate(self._children):
                if codes[index] is None:
                    codes[index] = child.wait(POLL_S / len(self._children))
            if self._must_stop or any(codes):
                self._end_rest(codes)
        endings = [
            RankEnding(code or 0, child.was_stopped, tuple(child.tail))
            for code, child in zip(codes, self._children, strict=True)
        ]
        self._order.leave_launched(endings)
        failed = [ending for ending in endings if ending.exit_code != 0]
        first = next((ending for ending in failed if not ending.stopped), None)
        first = first or next(iter(failed), RankEnding(0))
        return first.exit_code if first.exit_code >= 0 else 128 - first.exit_code

    def _end_rest(self, codes: Sequence[int | None]) -> None:
        for code, child in zip(codes, self._children, strict=True):
            if code is None:
                child.stop(self._order.grace_s)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._must_stop = True


def rank_command(request: LaunchRequest, rank: RankStart) -> list[str]:
    """Return the command of one rank, as the launcher would write it."""
    flag = request.local_rank_flag
    first = [f"{flag}={rank.local_rank}"] if flag else []
    if request.kind is ProgramKind.PROGRAM:
        return [*TIED_COMMAND, request.target, *first, *request.args]
    module = ["-m"] if request.kind is ProgramKind.MODULE else []
    return [sys.executable, "-u", *module, request.target, *first, *request.args]


def rank_environment(
    request: LaunchRequest,
    rank: RankStart,
    own: Mapping[str, str],
    *,
    of_job: Collection[str] = (),
) -> dict[str, str]:
    """Return the environment of one rank: the command's own, the launcher's, and the job's.

    The launcher's files and flags replace neither the variables `of_job` nor those that tell the
    program what the job wants of it.
    """
    named = {
        name: own.get(name, "") if value is None else value
        for name, value in request.env.items()
        if name not in of_job and not name.startswith(OWN_PREFIX)
    }
    env = {**own, **named, **rank.env, SUPERVISOR_ENV: str(os.getpid())}
    env["PYTHONPATH"] = _python_path(request, named, own)
    del env[NODE_ENV]
    if request.kind is not ProgramKind.PROGRAM:
        del env[DESCENDANTS_ENV]  # the rank's own Python is the one that trains
    return {**env, **_LAUNCHER_ENV.get(request.launcher, _nothing)(env)}


def _python_path(request: LaunchRequest, *given: Mapping[str, str]) -> str:
    """Return where a rank's Python looks: for our hooks, then as the launcher would let it."""
    folders = [RANK_SITE, *([str(Path.cwd())] if request.spans_nodes else [])]
    for env in given:
        if path := env.get("PYTHONPATH"):
            folders += path.split(os.pathsep)
    return os.pathsep.join(dict.fromkeys(folders))


def _torchrun_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return what torch's elastic agent sets beside the names that every launcher has."""
    return {
        "GROUP_RANK": env["NODE_RANK"],
        "GROUP_WORLD_SIZE": env["CROSS_SIZE"],
        "ROLE_NAME": "default",
        "ROLE_RANK": env["RANK"],
        "ROLE_WORLD_SIZE": env["WORLD_SIZE"],
        "TORCHELASTIC_RUN_ID": env[RUN_ENV],
        "TORCHELASTIC_RESTART_COUNT": env[RESTART_ENV],
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }


def _mpirun_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return Open MPI's names; DeepSpeed asks that its local rank is ours."""
    return {
        "OMPI_COMM_WORLD_RANK": env["RANK"],
        "OMPI_COMM_WORLD_SIZE": env["WORLD_SIZE"],
        "OMPI_COMM_WORLD_LOCAL_RANK": env["LOCAL_RANK"],
        "OMPI_COMM_WORLD_LOCAL_SIZE": env["LOCAL_WORLD_SIZE"],
        "OMPI_COMM_WORLD_NODE_RANK": env["LOCAL_RANK"],
    }


def _nothing(_env: Mapping[str, str]) -> dict[str, str]:
    return {}


_LAUNCHER_ENV: Final = {"torchrun": _torchrun_env, "mpirun": _mpirun_env}


def launch_as_accelerate(_name: str, words: Sequence[str], order: NodeOrder) -> int:
    """Let accelerate read words, files and defaults; where it starts torch's launcher, start ours.

    With hosts it starts a `deepspeed` or an `mpirun`, which it finds on PATH: this module again.

    Raises:
        LauncherRefused: what it starts is not what this job is.
    """
    import accelerate.commands.launch as accelerates  # noqa: PLC0415  not in every image
    import torch.distributed.run as torchs  # noqa: PLC0415  accelerate imports it anyway

    codes = [0]

    def start(args: Any) -> None:
        codes.append(run(_from_torch(args), order))

    def start_one(args: Any) -> None:
        _, env = accelerates.prepare_simple_launcher_cmd_env(args)
        os.environ.update(env)
        args.nproc_per_node = args.nnodes = 1
        start(args)

    torchs.run = start
    accelerates.simple_launcher = start_one
    try:
        accelerates.launch_command(accelerates.launch_command_parser().parse_args(list(words[1:])))
    except SystemExit as end:
        codes.append(end.code if isinstance(end.code, int) else int(end.code is not None))
    return max(codes, key=abs)


def _from_torch(args: Any) -> LaunchRequest:
    """Read the arguments that accelerate hands to torch's launcher."""
    kind = ProgramKind.MODULE if args.module else ProgramKind.SCRIPT
    return LaunchRequest(
        launcher="accelerate launch",
        kind=ProgramKind.PROGRAM if args.no_python else kind,
        target=args.training_script,
        args=tuple(args.training_script_args),
        nodes=int(args.nnodes or 1),
        ranks_per_node=int(args.nproc_per_node or 1),
    )


def find_real(name: str) -> str:
    """Return the program of that name behind ours.

    Raises:
        LauncherRefused: the image has none.
    """
    folders = os.environ["PATH"].split(os.pathsep)
    others = os.pathsep.join(folder for folder in folders if folder != LAUNCHERS_PATH)
    found = shutil.which(name, path=others)
    if found is None:
        raise LauncherRefused(f"{name}: the image has no such program")
    return found


def _start(
    request: LaunchRequest, order: NodeOrder, rank: RankStart, cores: Sequence[int]
) -> ChildProcess:
    env = rank_environment(request, rank, os.environ, of_job=order.of_job)
    if cores:
        env["OMP_NUM_THREADS"] = str(len(cores))
    log = Path(rank.log) if rank.log else None
    return ChildProcess(rank_command(request, rank), env, f"[rank {rank.rank}] ", log, cores=cores)


def _cores(request: LaunchRequest, order: NodeOrder, rank: RankStart) -> list[int]:
    if not (request.binds_cores or order.binds_cores):
        return []
    available = os.sched_getaffinity(0)
    return share_cores(available, request.core_list, rank.local_rank, len(order.ranks))


def _read_file(name: str) -> str | None:
    path = Path(name).expanduser()
    return path.read_text() if path.is_file() else None


def _say(request: LaunchRequest, order: NodeOrder) -> None:
    told = f"[trainer] {request.launcher}: starting ranks {[rank.rank for rank in order.ranks]}"
    if request.left_to_job:
        told += f"; left to the job: {' '.join(request.left_to_job)}"
    print(told, flush=True)  # noqa: T201  the job's log


if __name__ == "__main__":
    sys.exit(main())
