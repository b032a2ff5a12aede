"""What the kernel says about this pod's memory."""

from pathlib import Path
from typing import Final

_COUNTERS: Final = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)
"""Of cgroup v2 and v1; inside a container both show the container's own group."""


def count_oom_kills() -> int:
    """Return how many processes of this container were killed for memory; 0 when unknown."""
    for path in _COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for name, _, value in (line.partition(" ") for line in lines):
            if name == "oom_kill":
                return int(value)
    return 0
