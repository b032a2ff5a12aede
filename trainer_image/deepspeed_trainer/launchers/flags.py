"""The flags of `deepspeed`, `torchrun` and `mpirun`, and what each of them means for a job.

Where ranks lie, how many there are and how they meet is the job's: a flag is read, or left to the
job, or refused with a sentence that says what to do instead.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from typing_extensions import override

from deepspeed_trainer.launchers.request import LauncherRefused


@dataclass(frozen=True, slots=True)
class _Flag:
    """One flag of a launcher: read, left to the job, or refused with a sentence."""

    names: tuple[str, ...]
    words: int = 1
    refusal: str = ""
    is_read: bool = False
    may_repeat: bool = False

    @property
    def name(self) -> str:
        return max(self.names, key=len)

    @property
    def dest(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


def _flag(*names: str, words: int = 1, may_repeat: bool = False) -> _Flag:
    return _Flag(names, words, is_read=True, may_repeat=may_repeat)


def _left(*names: str, words: int = 1) -> _Flag:
    return _Flag(names, words)


def _refused(*names: str, why: str, words: int = 1) -> _Flag:
    return _Flag(names, words, refusal=why)


def _both(name: str) -> tuple[str, str]:
    return f"--{name}", f"--{name.replace('-', '_')}"


_NO_SSH: Final = "nothing starts over SSH or MPI here; leave it out"

_DEEPSPEED: Final = (
    _flag("-H", "--hostfile"),
    _flag("-i", "--include"),
    _flag("-e", "--exclude"),
    _flag("--num_nodes"),
    _flag("--num_gpus", "--num_accelerators"),
    _flag("--module", words=0),
    _flag("--no_python", words=0),
    _flag("--no_local_rank", words=0),
    _flag("--bind_cores_to_rank", words=0),
    _flag("--bind_core_list"),
    _left("--launcher"),
    _left("--master_port"),
    _left("--master_addr"),
    _left("--node_rank"),
    _left("--no_ssh", words=0),
    _left("--no_ssh_check", words=0),
    _left("--force_multi", words=0),
    _left("--save_pid", words=0),
    _left("--enable_each_rank_log"),
    _left("--log_level"),
    _left("-q", "--quiet", words=0),
    _refused("--launcher_args", why=_NO_SSH),
    _refused("--ssh_port", why=_NO_SSH),
    _refused("--venv_script", why="the image holds the environment; source it before this line"),
    _refused("--autotuning", why="its trials start over SSH; run them as jobs of their own"),
    _refused("--elastic_training", why="DeepSpeed 0.19 took it out", words=0),
    _refused("--min_elastic_nodes", why="DeepSpeed 0.19 took it out"),
    _refused("--max_elastic_nodes", why="DeepSpeed 0.19 took it out"),
)
_TORCHRUN: Final = (
    _flag("--nnodes"),
    _flag(*_both("nproc-per-node")),
    _flag(*_both("max-restarts")),
    _flag("-m", "--module", words=0),
    _flag(*_both("no-python"), words=0),
    _left(*_both("rdzv-backend")),
    _left(*_both("rdzv-endpoint")),
    _left(*_both("rdzv-id")),
    _left(*_both("rdzv-conf")),
    _left("--standalone", words=0),
    _left(*_both("node-rank")),
    _left(*_both("master-addr")),
    _left(*_both("master-port")),
    _left(*_both("local-addr")),
    _left(*_both("monitor-interval")),
    _left(*_both("start-method")),
    _left(*_both("event-log-handler")),
    _left("--role"),
    _left(*_both("log-dir")),
    _left("-r", "--redirects"),
    _left("-t", "--tee"),
    _left(*_both("local-ranks-filter")),
    _left(*_both("duplicate-stdout-filters")),
    _left(*_both("duplicate-stderr-filters")),
    _left(*_both("signals-to-handle")),
    _left(*_both("shutdown-timeout")),
    _refused(*_both("run-path"), why="name the script itself", words=0),
    _refused(*_both("logs-specs"), why="the job keeps a log per rank; leave it out"),
    _refused(*_both("numa-binding"), why="say entrypoint.bindCores instead"),
    _refused(*_both("virtual-local-rank"), why="every rank sees its node's devices here", words=0),
)
_MPIRUN: Final = (
    _flag("-np", "-n", "--n", "-c"),
    _flag("-N", "-npernode", "--npernode", "-ppn"),
    _flag("-hostfile", "--hostfile", "-machinefile", "--machinefile", "-f"),
    _flag("-H", "-host", "--host"),
    _flag("-x", may_repeat=True),
    _flag("-genv", words=2, may_repeat=True),
    _left("--allow-run-as-root", words=0),
    _left("--oversubscribe", "-oversubscribe", words=0),
    _left("--tag-output", "-tag-output", "-l", words=0),
    _left("--bind-to", "-bind-to"),
    _left("--map-by", "-map-by"),
    _left("--rank-by", "-rank-by"),
    _left("--mca", "-mca", words=2),
    _left("--quiet", "-q", words=0),
    _left("-v", "--verbose", words=0),
    _refused("-wdir", "--wdir", why="say entrypoint.workingDir, or cd before this line"),
    _refused("--app", "-app", why="one program per job; write its command here"),
    _refused("--prefix", why=_NO_SSH),
)
FLAGS: Final[Mapping[str, tuple[_Flag, ...]]] = {
    "deepspeed": _DEEPSPEED,
    "torchrun": _TORCHRUN,
    "torch.distributed.launch": (*_TORCHRUN, _flag(*_both("use-env"), words=0)),
    "mpirun": _MPIRUN,
}
"""Every flag of every launcher that is read here."""


class _Parser(argparse.ArgumentParser):
    """Refuses instead of leaving the process."""

    @override
    def error(self, message: str) -> NoReturn:
        raise LauncherRefused(f"{self.prog}: {message}")


def parse(launcher: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the flags that were given, by name, with `target`, `args` and what is `left` to us."""
    parser = _Parser(prog=launcher, add_help=False, argument_default=argparse.SUPPRESS)
    for flag in FLAGS[launcher]:
        if flag.words == 0:
            parser.add_argument(*flag.names, dest=flag.dest, action="store_true")
        else:
            action = "append" if flag.may_repeat else "store"
            nargs = None if flag.words == 1 else flag.words
            parser.add_argument(*flag.names, dest=flag.dest, action=action, nargs=nargs)
    parser.add_argument("target", metavar="PROGRAM")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    given = vars(parser.parse_args(list(words)))
    for flag in FLAGS[launcher]:
        if flag.refusal and flag.dest in given:
            raise LauncherRefused(f"{launcher} {flag.name}: {flag.refusal}")
    left = [flag for flag in FLAGS[launcher] if not flag.is_read and flag.dest in given]
    return {**given, "launcher": launcher, "left": tuple(flag.name for flag in left)}


def read_whole(launcher: str, given: Mapping[str, Any], flag: str) -> int | None:
    """Return a count that was given, None where it was left open."""
    text = given.get(flag)
    if text is None or text == "-1":  # deepspeed's own word for all
        return None
    if not text.isdecimal() or int(text) < 1:
        raise LauncherRefused(f"{launcher} --{flag}={text} is no positive number")
    return int(text)
