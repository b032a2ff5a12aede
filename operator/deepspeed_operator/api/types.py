"""The DeepSpeedJob resource: the one source of crds/, the chart's copy and the API reference.

Import every type of the API from here; spec.py (with a module for each of its subjects) and
status.py are its two halves.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from deepspeed_operator.api.checkpoint import Keep, Storage
from deepspeed_operator.api.code import Code
from deepspeed_operator.api.entrypoint import Entrypoint
from deepspeed_operator.api.rules import SPEC_RULES
from deepspeed_operator.api.schema import ApiModel, rule, rules
from deepspeed_operator.api.spec import ConfigMapKey, DeepSpeedJobSpec
from deepspeed_operator.api.status import (
    MAX_ATTEMPTS_SHOWN,
    Attempt,
    AttemptState,
    CheckpointStatus,
    ClusterStatus,
    Condition,
    ConditionStatus,
    DeepSpeedJobStatus,
    Failure,
    Metric,
    ProgressStatus,
    RunCode,
    RunStatus,
)

__all__ = [
    "MAX_ATTEMPTS_SHOWN",
    "Attempt",
    "AttemptState",
    "CheckpointStatus",
    "ClusterStatus",
    "Code",
    "Condition",
    "ConditionStatus",
    "ConfigMapKey",
    "DeepSpeedJob",
    "DeepSpeedJobSpec",
    "DeepSpeedJobStatus",
    "Entrypoint",
    "Failure",
    "Keep",
    "Metric",
    "ProgressStatus",
    "RunCode",
    "RunStatus",
    "Storage",
]

NAME_RULES = rules(
    rule(
        "size(self.metadata.name) <= 63",
        "metadata.name must have at most 63 characters: children carry it as a label",
    )
)


class DeepSpeedJob(ApiModel):
    """A DeepSpeed training run over one or more nodes, started on KubeRay without SSH."""

    model_config = ConfigDict(json_schema_extra=NAME_RULES)

    spec: Annotated[DeepSpeedJobSpec, Field(json_schema_extra=SPEC_RULES)]
    """The wanted training run."""
    status: DeepSpeedJobStatus = DeepSpeedJobStatus()
    """What the operator knows."""
