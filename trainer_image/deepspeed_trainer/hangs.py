"""When an attempt counts as hung: the settings of spec.hang. Part of the contract."""

from dataclasses import dataclass
from typing import Any, Self

from deepspeed_trainer.fields import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class HangPolicy:
    """Limits on how long the ranks may stay without a heartbeat, all times in seconds."""

    enabled: bool = True
    min_s: int = 180
    """No phase's limit is shorter."""
    factor: int = 5
    """A phase's limit is this many times the longest of its last stays."""
    start_deadline_s: int = 1800
    """Limit of a phase that was not seen before, and of a rank that works where it stands."""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        policy = cls(
            enabled=fields.flag("enabled"),
            min_s=fields.whole("min_s", low=1, high=86_400),
            factor=fields.whole("factor", low=2, high=1000),
            start_deadline_s=fields.whole("start_deadline_s", low=1, high=604_800),
        )
        fields.refuse_unknown()
        return policy
