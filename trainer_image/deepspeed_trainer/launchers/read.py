"""A launcher's command line becomes a request. Pure: files are read by whoever asks."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepspeed_trainer.launchers.flags import parse, read_whole
from deepspeed_trainer.launchers.hosts import ReadFile, choose_slots, count_evenly
from deepspeed_trainer.launchers.request import LauncherRefused, LaunchRequest, ProgramKind


def read_launch(
    launcher: str, words: Sequence[str], *, hosts: Mapping[str, int], read_file: ReadFile
) -> LaunchRequest:
    """Return what a launcher was asked for.

    `hosts` are the job's own, with their slots; they stand for a hostfile that was not named, or
    is not there.

    Raises:
        LauncherRefused: a flag is unknown, contradicts another, or asks for what a job does not do.
    """
    return _READERS[launcher](parse(launcher, words), hosts, read_file)


def read_env_file(name: str, read_file: ReadFile) -> Mapping[str, str]:
    """Return the variables that DeepSpeed's launcher gives to all ranks, of every place it looks.

    It looks for the file in the home folder and in the working directory, whose file wins.

    Raises:
        LauncherRefused: a line is not NAME=VALUE.
    """
    found: dict[str, str] = {}
    for path in (f"~/{name}", name):
        for line in (read_file(path) or "").splitlines():
            key, sign, value = line.partition("=")
            if not line.strip() or line.startswith("#"):
                continue
            if not sign:
                raise LauncherRefused(f"deepspeed: {path} says {line!r}; write NAME=VALUE")
            found[key.strip()] = value
    return found


def _read_deepspeed(
    given: Mapping[str, Any], hosts: Mapping[str, int], read_file: ReadFile
) -> LaunchRequest:
    chosen = choose_slots(given, hosts, read_file)
    kind = _kind("deepspeed", given)
    is_multi = len(chosen) > 1 or "force_multi" in given
    return LaunchRequest(
        launcher="deepspeed",
        kind=kind,
        target=given["target"],
        args=tuple(given["args"]),
        nodes=len(chosen),
        ranks_per_node=count_evenly(
            "deepspeed", {host: len(slots) for host, slots in chosen.items()}
        ),
        local_rank_flag=None if "no_local_rank" in given else "--local_rank",
        binds_cores="bind_cores_to_rank" in given or "bind_core_list" in given,
        core_list=given.get("bind_core_list"),
        spans_nodes=is_multi and "no_ssh" not in given,
        left_to_job=given["left"],
    )


def _read_torchrun(
    given: Mapping[str, Any], hosts: Mapping[str, int], read_file: ReadFile
) -> LaunchRequest:
    del hosts, read_file  # torchrun counts, it names no hosts
    is_launch = given["launcher"] == "torch.distributed.launch"
    nodes = given.get("nnodes", "1" if "standalone" in given else None)
    if nodes is not None and not nodes.isdecimal():
        raise LauncherRefused(
            f"torchrun --nnodes={nodes}: a job has one size; say a number equal to spec.nodes"
        )
    if given.get("max_restarts", "0") != "0":
        raise LauncherRefused(
            "torchrun --max-restarts: the job restarts ranks; say failurePolicy.maxRestarts instead"
        )
    per_node = given.get("nproc_per_node")
    if per_node in {"auto", "gpu", "cpu", "xpu"}:
        per_node = None  # as many as the node has: the job's own number
    if per_node is not None and not per_node.isdecimal():
        raise LauncherRefused(f"torchrun --nproc-per-node={per_node} is no number")
    return LaunchRequest(
        launcher="torchrun",
        local_rank_flag="--local-rank" if is_launch and "use_env" not in given else None,
        kind=_kind("torchrun", given),
        target=given["target"],
        args=tuple(given["args"]),
        nodes=None if nodes is None else int(nodes),
        ranks_per_node=None if per_node is None else int(per_node),
        left_to_job=given["left"],
    )


def _read_mpirun(
    given: Mapping[str, Any], hosts: Mapping[str, int], read_file: ReadFile
) -> LaunchRequest:
    del hosts, read_file  # hosts are counted by -np; how many of them is the job's
    if ":" in given["args"]:
        raise LauncherRefused("mpirun PROGRAM : PROGRAM: one program per job")
    env: dict[str, str | None] = {}
    for word in given.get("x", []):
        name, sign, value = word.partition("=")
        env[name] = value if sign else None
    env |= dict(given.get("genv", []))
    return LaunchRequest(
        launcher="mpirun",
        kind=ProgramKind.PROGRAM,
        target=given["target"],
        args=tuple(given["args"]),
        ranks_per_node=read_whole("mpirun", given, "npernode"),
        world_size=read_whole("mpirun", given, "np"),
        env=env,
        left_to_job=given["left"],
    )


def _kind(launcher: str, given: Mapping[str, Any]) -> ProgramKind:
    if "module" in given and "no_python" in given:
        raise LauncherRefused(f"{launcher} --module and --no_python exclude each other")
    if "module" in given:
        return ProgramKind.MODULE
    return ProgramKind.PROGRAM if "no_python" in given else ProgramKind.SCRIPT


_READERS: Final = {
    "deepspeed": _read_deepspeed,
    "torchrun": _read_torchrun,
    "torch.distributed.launch": _read_torchrun,
    "mpirun": _read_mpirun,
}
