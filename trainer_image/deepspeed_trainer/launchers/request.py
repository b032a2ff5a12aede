"""What a launcher was asked for, in words that all launchers share."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class LauncherRefused(ValueError):
    """A launcher's words cannot be carried out in this job; the message names the flag."""


class ProgramKind(StrEnum):
    """What a launcher starts once per rank."""

    SCRIPT = "script"
    MODULE = "module"
    PROGRAM = "program"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What a launcher was asked for; a count that was left open is None."""

    launcher: str
    kind: ProgramKind
    target: str
    args: tuple[str, ...] = ()
    nodes: int | None = None
    ranks_per_node: int | None = None
    world_size: int | None = None
    local_rank_flag: str | None = None
    """How a script is told its local rank: --local_rank, --local-rank or not at all."""
    env: Mapping[str, str | None] = field(default_factory=dict)
    """Variables for the ranks; None passes on the value that the launcher itself has."""
    spans_nodes: bool = False
    """Started as DeepSpeed does it across nodes: ranks import from its working directory, too."""
    binds_cores: bool = False
    core_list: str | None = None
    left_to_job: tuple[str, ...] = ()
    """Flags whose work is done by the job itself."""

    @property
    def command_line(self) -> str:
        """The program as a person would type it."""
        words = {ProgramKind.SCRIPT: ["python"], ProgramKind.MODULE: ["python", "-m"]}
        return shlex.join([*words.get(self.kind, []), self.target, *self.args])


def refuse_other_size(request: LaunchRequest, nodes: int, ranks_per_node: int) -> None:
    """Compare what was asked for with the job.

    Raises:
        LauncherRefused: naming both numbers and the field to change.
    """
    asked = (
        (request.nodes, nodes, "nodes", "spec.nodes"),
        (request.ranks_per_node, ranks_per_node, "ranks per node", "spec.gpusPerNode"),
        (request.world_size, nodes * ranks_per_node, "ranks", "spec.nodes and spec.gpusPerNode"),
    )
    for wanted, has, what, fields in asked:
        if wanted is not None and wanted != has:
            raise LauncherRefused(
                f"{request.launcher} was asked for {wanted} {what}, the job has {has}: change"
                f" {fields}, or what the launcher is asked for"
            )
