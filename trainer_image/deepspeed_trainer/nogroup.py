"""A TorchConfig without a process group: a script's ranks make it themselves, in their children.

Ray's own would bind the rendezvous port in the wrong process.  It has no state and nothing to shut
down.
"""

from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from typing_extensions import override


class _NoGroup(Backend):  # type: ignore[misc]
    """Does nothing at start and end, but lets the ranks of a node see all its devices."""

    share_cuda_visible_devices = True


class NoGroupConfig(TorchConfig):  # type: ignore[misc]
    """For trainers whose workers are supervisors."""

    @property
    @override
    def backend_cls(self) -> type[Backend]:
        return _NoGroup
