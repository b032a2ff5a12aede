"""Hosts, slots and cores that a `deepspeed` command line chooses."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from deepspeed_trainer.launchers.flags import read_whole
from deepspeed_trainer.launchers.request import LauncherRefused

JOB_HOSTFILE: Final = "/job/hostfile"
"""Where DeepSpeed looks when no hostfile is named."""

ReadFile = Callable[[str], str | None]
"""The text of a file, None when there is none."""


def choose_slots(
    given: Mapping[str, Any], hosts: Mapping[str, int], read_file: ReadFile
) -> dict[str, list[int]]:
    """Return the slots that a deepspeed command line chooses, by host."""
    name = given.get("hostfile", JOB_HOSTFILE)
    text = read_file(name)
    pool = _name_own(hosts) if text is None else read_hostfile(name, text)
    include, exclude = given.get("include"), given.get("exclude")
    counts = [read_whole("deepspeed", given, flag) for flag in ("num_nodes", "num_accelerators")]
    if include and exclude:
        raise LauncherRefused("deepspeed --include and --exclude exclude each other")
    if (include or exclude) and any(count is not None for count in counts):
        raise LauncherRefused(
            "deepspeed --num_nodes and --num_gpus exclude --include and --exclude"
        )
    chosen = {host: list(range(slots)) for host, slots in pool.items()}
    if include:
        named = _read_filter("--include", include, chosen)
        chosen = {host: named[host] for host in chosen if host in named}
    elif exclude:
        named = _read_filter("--exclude", exclude, chosen)
        chosen = {
            host: [slot for slot in slots if slot not in named.get(host, [])]
            for host, slots in chosen.items()
        }
    chosen = {host: slots for host, slots in chosen.items() if slots}
    return _trim(chosen, *counts)


def _name_own(hosts: Mapping[str, int]) -> dict[str, int]:
    """Return the job's hosts as DeepSpeed calls them: a single one is localhost to it."""
    return {"localhost": sum(hosts.values())} if len(hosts) == 1 else dict(hosts)


def _trim(
    chosen: Mapping[str, list[int]], nodes: int | None, ranks_per_node: int | None
) -> dict[str, list[int]]:
    """Return the first hosts and slots; more than there are stay more, to be refused by number."""
    kept = dict(list(chosen.items())[:nodes])
    if nodes is not None and nodes > len(kept):
        kept |= {
            f"missing-{number}": next(iter(kept.values())) for number in range(len(kept), nodes)
        }
    if ranks_per_node is not None:
        kept = {host: list(range(ranks_per_node)) for host in kept}
    return kept


def _read_filter(flag: str, text: str, pool: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Read NODE[:SLOT,SLOT…][@NODE…]; a node alone stands for all its slots."""
    named: dict[str, list[int]] = {}
    for spec in text.split("@"):
        host, _, listed = spec.partition(":")
        if host not in pool:
            raise LauncherRefused(
                f"deepspeed {flag} {text}: no host {host!r}; there are {', '.join(pool)}"
            )
        try:
            slots = [int(slot) for slot in listed.split(",")] if listed else list(pool[host])
        except ValueError:
            raise LauncherRefused(f"deepspeed {flag} {text}: {listed!r} are no slots") from None
        for slot in slots:
            if slot not in pool[host]:
                raise LauncherRefused(f"deepspeed {flag} {text}: {host} has no slot {slot}")
        named[host] = sorted({*named.get(host, []), *slots})
    return named


def count_evenly(launcher: str, slots: Mapping[str, int]) -> int:
    """Return the one number of slots that every host has."""
    counts = set(slots.values())
    if len(counts) != 1:
        told = ", ".join(f"{host}: {count}" for host, count in slots.items()) or "none"
        raise LauncherRefused(
            f"{launcher} chooses different numbers of slots ({told}); a job has spec.gpusPerNode"
            " ranks on every node"
        )
    return counts.pop()


def read_hostfile(name: str, text: str) -> dict[str, int]:
    """Return the slots of each host of a hostfile, in its order.

    Raises:
        LauncherRefused: naming the line that is not `host slots=N`.
    """
    hosts: dict[str, int] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = re.match(r"(\S+)\s+slots=(\d+)", line)  # what follows is for other launchers
        if found is None:
            raise LauncherRefused(f"{name}, line {number}: {line!r} is not `host slots=N`")
        if found[1] in hosts:
            raise LauncherRefused(f"{name}, line {number}: host {found[1]} is there twice")
        hosts[found[1]] = int(found[2])
    if not hosts:
        raise LauncherRefused(f"{name} names no host")
    return hosts


def share_cores(available: Iterable[int], listed: str | None, rank: int, ranks: int) -> list[int]:
    """Return a rank's share of a node's cores, of those that are `listed` as in 0-3,8 or of all.

    Raises:
        LauncherRefused: there are fewer cores than ranks, or one is listed that is not there.
    """
    cores = sorted(available)
    if listed is not None:
        wanted = _read_cores(listed)
        absent = set(wanted) - set(cores)
        if absent:
            raise LauncherRefused(f"--bind_core_list {listed}: there is no core {min(absent)} here")
        cores = wanted
    count = len(cores) // ranks
    if count == 0:
        raise LauncherRefused(f"{len(cores)} cores cannot be shared by {ranks} ranks")
    return cores[rank * count : (rank + 1) * count]


def _read_cores(text: str) -> list[int]:
    cores: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if found is None:
            raise LauncherRefused(f"--bind_core_list {text}: {part!r} is no core and no range")
        cores.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return sorted(cores)
