"""Which cluster demo and tests use: what the user says by `make … CLUSTER=kind`, or by environment.

This is the only place that reads these variables. Whether the cluster can be had is asked in
ground.py, and what it is then like is said by target.py.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from devcluster.errors import WrongUse

DEVCLUSTER, EXISTING, KIND = "devcluster", "existing", "kind"
KINDS = (DEVCLUSTER, EXISTING, KIND)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user said.

    registry, pushes, storage_class: with an existing cluster alone. registry: `host/path` of our
    three images; empty where the nodes hold them. kubeconfig: as in $KUBECONFIG, perhaps several.
    """

    cluster: str = DEVCLUSTER
    registry: str = ""
    pushes: bool = False
    storage_class: str = ""
    kubeconfig: str = ""


def read_choice(given: Mapping[str, str] = os.environ) -> Choice:
    """Read the variables. Raises: WrongUse, with the values that there are."""
    cluster = given.get("CLUSTER") or DEVCLUSTER
    if cluster not in KINDS:
        raise WrongUse(f"CLUSTER={cluster} is none of {', '.join(KINDS)}.")
    if cluster != EXISTING:
        return Choice(cluster)
    registry, push = given.get("IMAGE_REGISTRY", "").rstrip("/"), given.get("PUSH", "")
    if "://" in registry:
        raise WrongUse(f"IMAGE_REGISTRY={registry} is an address: leave out what is before //.")
    if push not in ("", "0", "1"):
        raise WrongUse(f"PUSH={push} is neither 1 nor 0.")
    if push == "1" and not registry:
        raise WrongUse("PUSH=1 does not say where to: add IMAGE_REGISTRY=host/path.")
    kubeconfig = given.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")  # noqa: PTH111
    return Choice(cluster, registry, push == "1", given.get("STORAGE_CLASS", ""), kubeconfig)
