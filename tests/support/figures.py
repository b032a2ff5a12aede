"""Figures for people to compare: statistics of pairs, and the machine that they were taken on.

A figure is a ratio between systems that ran in the same program, so that a slow machine slows all
of them. Results are JSON below build/figures.
"""

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "figures"
CONFIDENCE = 0.95
GIBIBYTE = 1 << 30


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Count, least, median, 90th percentile (the nearest value above) and greatest."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "min": ordered[0],
        "median": statistics.median(ordered),
        "p90": ordered[math.ceil(0.9 * len(ordered)) - 1],
        "max": ordered[-1],
    }


def interval_of_median(values: Sequence[float]) -> tuple[float, float] | None:
    """An interval that holds the median with at least 95 %; None for fewer than six values.

    Order statistics: whatever the distribution, how many values fall below its median is binomial
    with p = 1/2 (Conover, Practical Nonparametric Statistics, section 3.2).
    """
    ordered, n = sorted(values), len(values)
    outside, below = 0.0, 0
    while True:
        outside += 2 * math.comb(n, below) / 2**n
        if outside > 1 - CONFIDENCE:
            break
        below += 1
    return (ordered[below - 1], ordered[n - below]) if below else None


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Ours to theirs by pairs; below 1 is in our favour, and `decided` when all of it is."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    interval = interval_of_median(ratios)
    pairs = zip(sorted(ours), sorted(theirs), strict=True)
    return {
        "median_ratio": statistics.median(ratios),
        "interval": interval,
        "decided": interval is not None and (interval[1] < 1 or interval[0] > 1),
        "less_at_every_percentile": all(a < b for a, b in pairs),
    }


def judge(again: Sequence[float], ours: Sequence[float], bar: float) -> str:
    """Whether ratios of ours to a rival lie within a bar such as 0.01, by both their intervals.

    `again` are ratios of the rival to itself: noise that is no smaller than the bar decides
    nothing, whatever the other interval says.
    """
    noise, found = interval_of_median(again), interval_of_median(ours)
    if noise is None or found is None:
        return "undecided: fewer than six pairs"
    if max(abs(bound - 1) for bound in noise) >= bar:
        return f"undecided: the rival beside itself is {noise[0]:.4f} to {noise[1]:.4f}"
    if found[1] <= 1 + bar:
        return f"within {bar:.0%}"
    return f"not within {bar:.0%}" if found[0] > 1 + bar else "undecided: the interval is too wide"


def rounds(systems: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """The order in which systems take turns: forth and back (ABBA), so that drift cancels."""
    forth = tuple(systems)
    return [forth if number % 2 == 0 else forth[::-1] for number in range(count)]


def machine() -> dict[str, Any]:
    """The machine, as far as figures depend on it."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / GIBIBYTE, 1),
        "kernel": platform.release(),
    }


def publish(name: str, result: dict[str, Any], versions: Mapping[str, str]) -> Path:
    """Write a result with its machine, the versions of what was measured, and the date.

    Returns the file.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    told = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine(),
        "versions": dict(versions),
        **result,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{name}.json"
    file.write_text(json.dumps(told, indent=2) + "\n")
    return file
