"""How a cluster is asked for; kept with it, so that a second `up` can tell if it is the same."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """What a cluster shall have.

    nodes: 0 means control plane and KubeRay only. detection: a key of DETECTIONS. fake_nodes: nodes
    without a machine, whose pods are Ready and run nothing. kueue, s3: have these beside.
    """

    nodes: int = 2
    kuberay_concurrency: int = 4
    detection: str = "fast"
    fake_nodes: int = 0
    kueue: bool = False
    s3: bool = False
