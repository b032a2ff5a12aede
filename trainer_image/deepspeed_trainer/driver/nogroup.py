"""A backend for TorchTrainer that makes no process group: a script's ranks make it themselves.

Ray's TorchConfig would bind the rendezvous port in the wrong process, and importing it would load
torch into the controller and into every supervisor, where nobody needs it.
"""

from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig
from typing_extensions import override


class _NoGroup(Backend):  # type: ignore[misc]
    """Does nothing at start and end, but lets the ranks of a node see all its devices."""

    share_cuda_visible_devices = True


@dataclass
class NoGroupConfig(BackendConfig):  # type: ignore[misc]
    """Stands in for TorchConfig where the workers are supervisors."""

    backend: str
    """What the ranks will use; TorchTrainer fills it in when it is empty."""

    @property
    @override
    def backend_cls(self) -> type[Backend]:
        return _NoGroup

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend}
