"""What the pods of a job get, and where they may run."""

from typing import Annotated

from pydantic import Field

from deepspeed_operator.api.schema import ApiModel, IntOrString

Quantity = Annotated[IntOrString, Field()]


class Scheduling(ApiModel):
    """Where pods may run."""

    node_selector: Annotated[
        dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)
    ] = {}
    """Labels that a worker's node must have. Default none."""
    lost_node_toleration_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that a pod stays bound to a node that is not ready or cannot be reached.
    Default 30; Kubernetes' own default would be 300."""


class Resources(ApiModel):
    """Compute resources of one pod. Limits equal requests for memory; CPU has no limit."""

    cpu: Quantity | None = None
    """CPU request of the pod."""
    memory: Quantity | None = None
    """Memory request and limit of the pod, shared memory included."""


class Head(ApiModel):
    """The head pod: it runs the driver and serves progress, and never does training work."""

    resources: Resources = Resources()
    """Default 1 CPU and 4Gi."""


class Worker(ApiModel):
    """The worker pods: one per node, each with gpusPerNode ranks."""

    resources: Resources = Resources()
    """Default per rank by accelerator: Nvidia 8 CPU and 64Gi, CPU 1 CPU and 3Gi."""
    bind_cores: bool = False
    """Whether every rank is bound to its share of the cores that its pod may use. Default false. A
    change counts for the next attempt."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, counted in the pod's memory. Default a quarter of the memory."""
