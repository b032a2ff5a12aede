"""TorchTrainer without the helper processes that an attempt has no use for.

By default Ray starts one that hands out Ray Data sets (there are none) and one that frees the
ranks' places should the controller die (the driver ends then, and Ray frees them with its job).
Each costs the head seconds of start and 200 MiB.
"""

from typing import Any, Final

from ray.train.torch import TorchTrainer
from typing_extensions import override

_UNUSED: Final = frozenset({"DatasetsCallback", "PlacementGroupCleanerCallback"})


class LeanTrainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer for one attempt that owns its Ray job."""

    @override
    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in _UNUSED]
