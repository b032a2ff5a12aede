"""spec.preemption: what happens when a pod is told to go."""

from typing import Annotated, Literal

from pydantic import Field

from deepspeed_operator.api.schema import ApiModel


class Preemption(ApiModel):
    """What happens when a pod is told to go: by an eviction, a drain, a preemption.

    All ranks then save after the same step, if the program can be asked to, and another attempt
    continues from there. It counts as no restart.
    """

    grace_seconds: Annotated[int, Field(ge=5, le=86400)] = 30
    """Seconds from when a pod is told to go until it is killed; its terminationGracePeriodSeconds.
    Default 30. The pod goes earlier when there is nothing left to save. A change counts for the
    next RayCluster."""
    signal: Literal["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"] | None = None
    """A signal that lets the program save: each rank gets it after the same optimizer step, in its
    own process. Default none; deepspeed_trainer.loop and Transformers' Trainer need none."""
