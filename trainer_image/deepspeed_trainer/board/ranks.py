"""The ranks of an attempt as the head knows them: who they are, where, and what they are told.

Pure.  When they may start and must stop is decided in `attempt`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepspeed_trainer.board.beats import DumpOrder
from deepspeed_trainer.board.failures import RankEnd, name_ranks
from deepspeed_trainer.contract import RunContract
from deepspeed_trainer.progress import Cause, Failure


@dataclass(frozen=True, slots=True)
class Launch:
    """What a rank needs to know about the others, once all of them are there."""

    local_rank: int
    local_world_size: int
    node_rank: int
    nodes: int
    master_addr: str
    master_port: int
    neighbours: tuple[int, ...] = ()
    """The ranks of this node by local rank."""
    hosts: tuple[str, ...] = ()
    """The pods by node rank, where a launcher will ask for them."""


@dataclass(frozen=True, slots=True)
class Resume:
    """What an attempt continues from: paths below the storage's root, empty for none."""

    number: int
    """Counts the choices of this attempt: when one turns out to be damaged, another is made."""
    save: str = ""
    """A checkpoint that a program finds where it had saved it."""
    report: str = ""
    """The checkpoint that ray.train.get_checkpoint answers."""
    step: int = 0
    attempt: int = 0
    """Which step `save` is of, or `report` where there is none, and which attempt had made it."""
    convert: str = ""
    """A checkpoint that the first rank converts before anything can be chosen; all others wait."""
    into: str = ""
    """Where its converted copy shall lie."""


@dataclass(frozen=True, slots=True)
class SaveOrder:
    """A save that all ranks shall make after one optimizer step, because a pod goes."""

    step: int
    is_agreed: bool
    """Whether all ranks have said that they will; until then another step may be named."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The head's answer to a rank: start with `launch`, stop the program, or return.

    `go_again` is for a supervisor whose round has ended: it says hello anew, with another port.
    """

    launch: Launch | None = None
    must_stop: bool = False
    may_leave: bool = False
    go_again: bool = False
    resume: Resume | None = None
    """What to get ready before the launch is given."""
    upload: int = 0
    """The save to bring to the storage now; 0 for none."""
    newest_save: int = 0
    """Saves before this one are not asked for any more, but for `upload`."""
    dump: DumpOrder | None = None
    """A stack dump that is wanted of the rank."""
    save: SaveOrder | None = None
    """A save to make before the ranks are stopped."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the driver saw of an attempt's end, beside what the ranks have told themselves."""

    lost: Mapping[int, str] = field(default_factory=dict)
    """Ranks whose supervisor died, and why."""
    error: str | None = None
    """What else Ray Train, or the trainer itself, complained of."""
    program: Failure | None = None
    """How a driver program failed."""


@dataclass(slots=True)
class RankState:
    """What is known about one rank."""

    pod: str
    pod_uid: str
    address: str
    port: int
    is_hooked: bool = False
    hook_failure: str | None = None
    group_size: int | None = None
    steps: int = 0
    begun: int = 0
    first_step: int | None = None
    verdict: Cause | None = None
    verdict_message: str = ""
    end: RankEnd | None = None


def find_misplacement(contract: RunContract, ranks: Mapping[int, RankState]) -> Failure | None:
    """Return the failure of ranks that do not lie as ordered: so many pods, so many on each."""
    per_pod: dict[str, list[int]] = {}
    for rank, state in ranks.items():
        per_pod.setdefault(state.pod_uid, []).append(rank)
    wanted = contract.ranks_per_node
    is_right = all(len(on_pod) == wanted for on_pod in per_pod.values())
    if len(per_pod) == contract.nodes and is_right:
        return None
    found = "; ".join(
        f"{ranks[on_pod[0]].pod}: {name_ranks(on_pod)}" for on_pod in per_pod.values()
    )
    message = f"wanted {contract.nodes} pods with {wanted} ranks each, found {found}"
    return Failure(Cause.PLACEMENT, message[:2048])


def describe_launches(
    ranks: Mapping[int, RankState], *, names_hosts: bool = False
) -> dict[int, Launch]:
    """Return what each rank needs to know about the others; one pass, there may be thousands."""
    pods: dict[str, list[int]] = {}
    for rank in sorted(ranks):
        pods.setdefault(ranks[rank].pod_uid, []).append(rank)
    hosts = tuple(ranks[on_pod[0]].pod for on_pod in pods.values()) if names_hosts else ()
    return {
        rank: Launch(
            local_rank=local_rank,
            local_world_size=len(on_pod),
            node_rank=node_rank,
            nodes=len(pods),
            master_addr=ranks[0].address,
            master_port=ranks[0].port,
            neighbours=tuple(on_pod),
            hosts=hosts,
        )
        for node_rank, on_pod in enumerate(pods.values())
        for local_rank, rank in enumerate(on_pod)
    }
