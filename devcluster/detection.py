"""How soon a cluster notices that a node is lost: Kubernetes' own figures, or quicker ones.

Measurements of how a program reacts to lost nodes mean little without these figures beside them.
Left out: how long pods stay bound to a lost node. That is a toleration of each pod, 300 s unless
the pod says otherwise, with either setting.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Detection:
    """Written as Kubernetes writes durations.

    grace_period: a node that was silent for so long is not Ready (controller manager).
    status_frequency: how often a kubelet looks at its node and tells what has changed; it renews
    its lease every 10 s with either setting.
    """

    grace_period: str
    status_frequency: str


DETECTIONS = {
    "stock": Detection(grace_period="50s", status_frequency="10s"),
    "fast": Detection(grace_period="20s", status_frequency="4s"),
}
