"""What this machine can carry: nodes that run containers, or only what needs no rights of root.

One question, asked by set-up, demo and tests alike, so that all of them give one answer. Whether a
cluster of somebody else is fit, existing.py asks.
"""

import os
import platform
import subprocess
from functools import cache
from shutil import which

from tools.choice import EXISTING, KIND, read_choice

PROBE = ("unshare", "--mount", "--net", "--pid", "--fork", "true")
"""The namespaces that a node is made of."""
DOCKER_S = 20


@cache
def find_obstacle() -> str | None:
    """Why the chosen cluster cannot be had here, in one sentence; None where it can.

    Raises: WrongUse when the choice is none.
    """
    chosen = read_choice().cluster
    if chosen == EXISTING:
        return None
    if chosen == KIND:
        return _find_obstacle_to_kind()
    reason = find_obstacle_to_nodes()
    if reason is None:
        return None
    if docker_answers():
        engine = "but a Docker engine answers, which CLUSTER=kind would use"
    else:
        engine = "and no Docker engine answers"
    return f"no real cluster can be had here: {reason}, {engine}"


def _find_obstacle_to_kind() -> str | None:
    if not docker_answers():
        return (
            "CLUSTER=kind needs a Docker engine, and `docker info` gets no answer: start one that"
            " this user may use"
        )
    if which("kind") is None:
        return (
            "CLUSTER=kind needs the program kind, and PATH has none: install it as"
            " https://kind.sigs.k8s.io/docs/user/quick-start says"
        )
    return None


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


def find_obstacle_to_nodes() -> str | None:
    """Why this machine can neither be nodes nor build images, in half a sentence."""
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
