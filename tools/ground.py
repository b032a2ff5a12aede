"""What this machine can carry: nodes that run containers, or only what needs no rights of root.

One question, asked by set-up, demo and tests alike, so that all of them give one answer.
"""

import os
import platform
import subprocess
from functools import cache
from shutil import which

PROBE = ("unshare", "--mount", "--net", "--pid", "--fork", "true")
"""The namespaces that a node is made of."""
DOCKER_S = 20


@cache
def find_obstacle() -> str | None:
    """Why no cluster with nodes can be had here, in one sentence; None where it can."""
    reason = _find_reason()
    if reason is None:
        return None
    engine = "a Docker engine answers" if docker_answers() else "no Docker engine answers"
    return f"no real cluster can be had here: {reason}, and {engine}"


def docker_answers() -> bool:
    """Whether a Docker engine does what this user asks."""
    if which("docker") is None:
        return False
    try:
        done = subprocess.run(
            ["docker", "info"], capture_output=True, timeout=DOCKER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _find_reason() -> str | None:
    if platform.system() != "Linux":
        return f"nodes need Linux, and this is {platform.system()}"
    if os.geteuid() != 0:
        return "nodes need root, and this user is not (`sudo make …` would do)"
    if (
        which(PROBE[0]) is None
        or subprocess.run(PROBE, capture_output=True, check=False).returncode
    ):
        return "nodes need namespaces of their own, and this container may not make any"
    return None
