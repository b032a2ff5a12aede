"""A DeepSpeedJob as the API server holds it: who it is, and its spec and status still raw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

Uid = NewType("Uid", str)


@dataclass(frozen=True, slots=True)
class JobKey:
    """Namespace and name of a DeepSpeedJob."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One DeepSpeedJob."""

    key: JobKey
    uid: Uid
    generation: int
    resource_version: str
    deleting: bool
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
