"""From a launcher's command line to a job, by the parser that the launchers' stand-ins have.

`accelerate launch` has files, defaults and variables of its own which only it can read; it becomes
a command per node, where it runs as it is.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from deepspeed_operator.cli.convert.draft import Draft, derive_name, read_config
from deepspeed_operator.cli.ends import WrongUse
from deepspeed_trainer.launchers.flags import parse
from deepspeed_trainer.launchers.read import read_env_file, read_launch
from deepspeed_trainer.launchers.request import LauncherRefused, LaunchRequest, ProgramKind

ReadFile = Callable[[str], str | None]

MODULES: Final = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torch.distributed.launch",
    "deepspeed.launcher.runner": "deepspeed",
    "accelerate.commands.launch": "accelerate",
}
LAUNCHERS: Final = ("deepspeed", "torchrun", "mpirun", "accelerate")
ASSUMED_GPUS: Final = 8
CONFIG_FLAG: Final = "--deepspeed_config"
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def draft_launch(words: Sequence[str], read_file: ReadFile) -> Draft:
    """Return the job of a command line; files that it names are read where they are there.

    Raises:
        WrongUse: no launcher is called, or one of its flags has no meaning for a job.
    """
    env, rest = _split_env(words)
    launcher, given = find_launcher(rest)
    try:
        if launcher == "accelerate":
            draft = _convert_accelerate(rest, given)
        else:
            draft = _convert(launcher, given, read_file)
    except LauncherRefused as error:
        raise WrongUse(str(error)) from error
    for name, value in env.items():
        draft.add_env(name, value)
    return draft


def find_launcher(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the launcher that a command line calls, and its own words.

    Raises:
        WrongUse: it calls none.
    """
    name, *rest = [*words] or [""]
    plain = PurePath(name).name
    if plain.startswith("python") and rest[:1] == ["-m"] and rest[1:2] and rest[1] in MODULES:
        return MODULES[rest[1]], rest[2:]
    if plain == "accelerate" and rest[:1] == ["launch"]:
        return plain, rest[1:]
    if plain in LAUNCHERS and plain != "accelerate":
        return plain, rest
    raise WrongUse(
        f"{shlex.join(words)[:200]!r} calls none of {', '.join(LAUNCHERS)}: a script that calls one"
        " runs as it is, with entrypoint.command and per: Node"
    )


def _split_env(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take off NAME=VALUE words, as a shell does."""
    env: dict[str, str] = {}
    rest = list(words)
    while rest and (found := _ASSIGNMENT.fullmatch(rest[0])):
        env[found[1]] = found[2]
        del rest[0]
    return env, rest


def _convert(launcher: str, words: Sequence[str], read_file: ReadFile) -> Draft:
    request = read_launch(launcher, words, hosts={"localhost": ASSUMED_GPUS}, read_file=read_file)
    draft = Draft(derive_name(_program_of(request)))
    _set_size(draft, launcher, words, request, read_file)
    _set_entrypoint(draft, request, read_file)
    env = read_env_file(".deepspeed_env", read_file) if launcher == "deepspeed" else {}
    for name, value in {**env, **request.env}.items():
        if value is None:
            draft.note("spec.deepspeed.env", f"give {name} the value that -x {name} passed on")
        else:
            draft.add_env(name, value)
    if request.binds_cores:
        draft.spec["worker"] = {"bindCores": True}
    if request.core_list is not None:
        draft.note(
            "spec.worker", f"cores {request.core_list} are not named: each rank gets a share"
        )
    if request.left_to_job:
        draft.note("spec", f"left to the job: {', '.join(sorted(request.left_to_job))}")
    return draft


def _program_of(request: LaunchRequest) -> str:
    """Return what names the program: of `mpirun python train.py` that is the file."""
    if request.kind is ProgramKind.PROGRAM:
        files = [word for word in request.args if word.endswith(".py")]
        return files[0] if files else request.target
    return request.target


def _set_size(
    draft: Draft,
    launcher: str,
    words: Sequence[str],
    request: LaunchRequest,
    read_file: ReadFile,
) -> None:
    given = parse(launcher, words)
    per_node, nodes = request.ranks_per_node, request.nodes
    if launcher == "deepspeed":
        name = given.get("hostfile")
        is_absent = name is not None and read_file(name) is None
        if is_absent:
            draft.note("spec.nodes", f"the hostfile {name} is not here, so hosts were not counted")
        if not {"num_accelerators", "include"} & set(given) and (name is None or is_absent):
            draft.note("spec.gpusPerNode", f"a guess: {launcher} takes all that a node has")
    elif per_node is None:
        per_node = min(ASSUMED_GPUS, request.world_size or ASSUMED_GPUS)
        draft.note("spec.gpusPerNode", f"a guess: {launcher} was not told")
    if nodes is None and request.world_size is not None and per_node:
        nodes = -(-request.world_size // per_node)
        if nodes * per_node != request.world_size:
            draft.note("spec.nodes", f"{request.world_size} ranks do not fill whole nodes")
    if nodes is None:
        draft.note("spec.nodes", f"a guess: {launcher} was not told")
    draft.spec |= {"nodes": nodes or 1, "gpusPerNode": per_node}


def _set_entrypoint(draft: Draft, request: LaunchRequest, read_file: ReadFile) -> None:
    args = list(request.args)
    if request.kind is ProgramKind.PROGRAM:
        draft.spec["entrypoint"] = {"command": [request.target, *args]}
        return
    config = _take_config(draft, args, read_file)
    entrypoint: dict[str, object] = {str(request.kind): request.target}
    if args:
        entrypoint["args"] = args
    if request.local_rank_flag is None:
        entrypoint["localRankArg"] = False
    elif request.local_rank_flag != "--local_rank":
        draft.note("spec.entrypoint", f"it gets --local_rank, not {request.local_rank_flag}")
    draft.spec["entrypoint"] = entrypoint
    if config is not None:
        draft.spec["deepspeed"] = {"config": config}


def _take_config(draft: Draft, args: list[str], read_file: ReadFile) -> Mapping[str, object] | None:
    """Move the DeepSpeed configuration into the job, which gives it to the program by this flag."""
    for at, word in enumerate(args):
        name, equals, path = word.partition("=")
        if name != CONFIG_FLAG:
            continue
        path = path if equals else "".join(args[at + 1 : at + 2])
        config = read_config(read_file(path) or "")
        if config is None:
            draft.note("spec.deepspeed", f"{path} is not here: {CONFIG_FLAG} stays in the args")
            return None
        del args[at : at + (1 if equals else 2)]
        return config
    return None


def _convert_accelerate(words: Sequence[str], given: Sequence[str]) -> Draft:
    files = [word for word in given if word.endswith(".py")]
    draft = Draft(derive_name(files[0] if files else "accelerate"))
    machines = _find_count(given, "--num_machines")
    processes = _find_count(given, "--num_processes")
    nodes = machines or 1
    per_node = processes // nodes if processes else ASSUMED_GPUS
    draft.spec |= {
        "nodes": nodes,
        "gpusPerNode": max(1, per_node),
        "entrypoint": {"command": list(words), "per": "Node"},
    }
    if machines is None or processes is None:
        draft.note(
            "spec.nodes, spec.gpusPerNode",
            "--num_machines and --num_processes are not both there; accelerate's own file counts",
        )
    return draft


def _find_count(words: Sequence[str], flag: str) -> int | None:
    for at, word in enumerate(words):
        name, equals, text = word.replace("-", "_").partition("=")
        if name == flag.replace("-", "_"):
            text = text if equals else "".join(words[at + 1 : at + 2])
            return int(text) if text.isdecimal() and int(text) > 0 else None
    return None
