"""Whichever cluster the user chose, by the same two verbs; `make down` runs the second one."""

import argparse
import sys

from devcluster import cluster as clusters
from devcluster.errors import DevclusterError, StepFailed
from tools import existing, kind, target
from tools.choice import EXISTING, KIND, read_choice
from tools.target import Target

DEFAULT = "demo"


def up(name: str) -> Target:
    """The chosen cluster, ready for the chart; `name` is for those that are made here.

    Raises: DevclusterError when it cannot be had, or lacks something.
    """
    choice = read_choice()
    if choice.cluster == EXISTING:
        return existing.up(choice)
    if choice.cluster == KIND:
        return kind.up(name)
    return target.dev_up(name)


def give_back(name: str) -> bool:
    """Remove the cluster of this name if it was made here; whether it was."""
    choice = read_choice()
    if choice.cluster == EXISTING:
        return False
    return kind.down(name) if choice.cluster == KIND else clusters.down(name)


def down(name: str) -> str:
    """Remove what `up` and the demo made; returns what was done, in a sentence."""
    choice = read_choice()
    if choice.cluster == EXISTING:
        found = existing.open_context(choice)
        existing.remove(found)
        return (
            f"context {found.name}: the example and the chart are removed; the CRD, other jobs,"
            " the operator's namespace and KubeRay stay"
        )
    return f"{name} is gone" if give_back(name) else f"there is no cluster {name}"


def main() -> int:
    """Remove the cluster of the demo, or what the demo left on one that exists."""
    parser = argparse.ArgumentParser(description="Remove what the demo made.")
    parser.add_argument("verb", choices=["down"])
    parser.add_argument("--name", default=DEFAULT, help="the cluster's name, if it was made here")
    arguments = parser.parse_args()
    try:
        print(down(arguments.name))
    except StepFailed:
        return 1  # told where it happened
    except DevclusterError as error:
        print(f"down: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
