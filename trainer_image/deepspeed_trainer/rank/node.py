"""A command per node: the first rank's supervisor runs it, the others of its node follow.

The command starts the ranks through a launcher, which is our `shim`.  What passes between them lies
in a folder that the ranks of a node share: where each rank's supervisor listens, what the launcher
said of the ranks' ends, and at last how each rank has ended.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Final, Self

from deepspeed_trainer.board.ranks import Launch
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.hooks.wire import DESCENDANTS_ENV, SOCKET_ENV, SUPERVISOR_ENV
from deepspeed_trainer.rank import rankenv

NODE_ENV: Final = "DSJOB_NODE"
"""Environment variable of a command per node: NodeOrder.to_json()."""
NEIGHBOURS_WITHIN_S: Final = 60.0
_LAUNCHED: Final = "launched.json"
_ENDED: Final = "ended.json"


@dataclass(frozen=True, slots=True)
class RankStart:
    """One rank of the node: its environment and its log, as far as the job decides them."""

    rank: int
    local_rank: int
    env: Mapping[str, str]
    log: str | None


@dataclass(frozen=True, slots=True)
class RankEnding:
    """How a rank ended: exit code (negative for a signal), whether it was told to, last lines."""

    exit_code: int
    stopped: bool = False
    tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """What a launcher needs to start a node's ranks; `hosts` are all of the job, with slots."""

    folder: str
    hosts: Mapping[str, int]
    ranks: tuple[RankStart, ...]
    grace_s: int
    binds_cores: bool = False
    """Whether every rank gets its share of the cores, also where no launcher is told so."""
    of_job: tuple[str, ...] = ()
    """Variables that the job sets, which no launcher's file or flag replaces."""

    def to_json(self) -> str:
        """Return the text for the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        plain = json.loads(text)
        ranks = tuple(RankStart(**rank) for rank in plain.pop("ranks"))
        return cls(**{**plain, "of_job": tuple(plain["of_job"])}, ranks=ranks)

    def leave_launched(self, endings: Sequence[RankEnding]) -> None:
        """Leave word of how the ranks that a launcher started have ended."""
        _write(Path(self.folder) / _LAUNCHED, endings)


class NodeFolder:
    """What the supervisors of one node share in one round, below the pod's temporary folder."""

    def __init__(self, contract: RunContract, launch: Launch, restart: int = 0) -> None:
        self._contract = contract
        self._launch = launch
        key = f"{contract.submission_id}/{launch.node_rank}/{restart}".encode()
        name = f"dsjob-node-{hashlib.sha256(key).hexdigest()[:16]}"
        self.path = Path(tempfile.gettempdir()) / name
        self.path.mkdir(mode=0o700, exist_ok=True)

    def show_socket(self, socket: Path) -> None:
        """Show where this rank's supervisor listens to hooks."""
        self._socket_of(self._launch.local_rank).symlink_to(socket)

    @property
    def has_first(self) -> bool:
        """Whether the rank that runs the node's command is there."""
        return self._socket_of(0).is_symlink()

    def await_neighbours(self, may_wait: Callable[[], bool]) -> bool:
        """Wait until all supervisors of the node listen; False when `may_wait` ends that.

        Raises:
            TimeoutError: one does not.
        """
        deadline = monotonic() + NEIGHBOURS_WITHIN_S
        all_of_node = range(self._launch.local_world_size)
        while absent := [rank for rank in all_of_node if not self._socket_of(rank).is_symlink()]:
            if monotonic() > deadline:
                raise TimeoutError(f"local ranks {absent} do not listen below {self.path}")
            if not may_wait():
                return False
        return True

    def command(self, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return the node's command and its environment, made from that of its supervisor."""
        contract, launch = self._contract, self._launch
        entrypoint = contract.entrypoint
        own = {
            **env,
            **rankenv.node_env(launch, contract.world_size),
            NODE_ENV: self._order().to_json(),
            SUPERVISOR_ENV: str(os.getpid()),
            DESCENDANTS_ENV: "1",
        }
        own |= rankenv.launchers_env(own)
        words = [rankenv.expand(word, own) for word in (entrypoint.target, *entrypoint.args)]
        return [*rankenv.TIED_COMMAND, *words], own

    def conclude(self, command: RankEnding) -> RankEnding:
        """Tell all ranks of the node how they ended, now that the command has; returns our own."""
        endings = find_endings(command, _read(self.path / _LAUNCHED), self._launch.local_world_size)
        _write(self.path / _ENDED, endings)
        return endings[self._launch.local_rank]

    def read_ending(self) -> RankEnding | None:
        """Return how this rank ended, or None while the command runs."""
        endings = _read(self.path / _ENDED)
        return None if endings is None else endings[self._launch.local_rank]

    def _order(self) -> NodeOrder:
        launch, contract = self._launch, self._contract
        return NodeOrder(
            folder=str(self.path),
            hosts=dict.fromkeys(launch.hosts, launch.local_world_size),
            ranks=tuple(
                self._start_of(rank, local_rank)
                for local_rank, rank in enumerate(launch.neighbours)
            ),
            grace_s=contract.stop_grace_s,
            binds_cores=contract.bind_cores,
            of_job=tuple(sorted(contract.env)),
        )

    def _start_of(self, rank: int, local_rank: int) -> RankStart:
        contract = self._contract
        env = rankenv.rank_env(rank, contract.world_size, self._launch)
        env |= {"LOCAL_RANK": str(local_rank), SOCKET_ENV: str(self._socket_of(local_rank))}
        log = rankenv.log_path(contract, rank)
        return RankStart(rank, local_rank, env, str(log) if log else None)

    def _socket_of(self, local_rank: int) -> Path:
        return self.path / f"hook-{local_rank}"


def find_endings(
    command: RankEnding, launched: Sequence[RankEnding] | None, ranks: int
) -> list[RankEnding]:
    """Return how each rank of a node ended, from its command's end and what a launcher said.

    A command that ended well has dealt with what happened before.  One that failed though no rank
    did, or that started none, failed as the node's first rank.
    """
    if command.exit_code == 0:
        return [RankEnding(0)] * ranks
    if launched is not None and any(ending.exit_code != 0 for ending in launched):
        return list(launched)
    return [command, *[RankEnding(command.exit_code, stopped=True)] * (ranks - 1)]


def _write(path: Path, endings: Sequence[RankEnding]) -> None:
    """Write whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps([asdict(ending) for ending in endings]))
    beside.replace(path)


def _read(path: Path) -> list[RankEnding] | None:
    try:
        plain = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return [RankEnding(**{**ending, "tail": tuple(ending["tail"])}) for ending in plain]
