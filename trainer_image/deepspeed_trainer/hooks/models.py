"""Advice about a model that every rank holds whole before ZeRO-3 shards it.

A model built outside `deepspeed.zero.Init` lies in the memory of each rank until the engine is
made; for a large one this is what kills a pod, on a GPU or on the host.  Nothing is changed here,
it is said.
"""

from typing import Any, Final

from deepspeed_trainer.hooks.guard import Guard
from deepspeed_trainer.hooks.wire import Report

MATTERS_BYTES: Final = 2 * 1024**3
"""Below this a rank that holds the whole model is worth no word: it has that much beside it."""


class ModelWatch:
    """Looks at the model that a rank makes an engine of."""

    def __init__(self, rank: int, report: Report, matters_bytes: int = MATTERS_BYTES) -> None:
        self._rank = rank
        self._report = report
        self._matters_bytes = matters_bytes
        self._whole_bytes = 0

    def patch(self, engine: Any) -> None:
        """Wrap the making of the class DeepSpeedEngine; all ranks do the same, one says it."""
        if self._rank == 0:
            guard = Guard(self._report)
            guard.before(engine, "__init__", self._weigh)
            guard.after(engine, "__init__", self._advise)

    def _weigh(self, _engine: Any, *args: Any, **kwargs: Any) -> None:
        model = kwargs["model"] if "model" in kwargs else args[1]
        self._whole_bytes = sum(
            weight.numel() * weight.element_size()
            for weight in model.parameters()
            # zero.Init marks what it has sharded; `meta` holds nothing.
            if not hasattr(weight, "ds_id") and weight.device.type != "meta"
        )

    def _advise(self, engine: Any, *_args: Any, **_kwargs: Any) -> None:
        if self._whole_bytes < self._matters_bytes or engine.zero_optimization_stage() != 3:
            return
        whole_gib = self._whole_bytes / 1024**3
        self._report(
            {
                "kind": "advice",
                "message": (
                    f"every rank held the whole model of {whole_gib:.1f} GiB before ZeRO-3 sharded "
                    "it: build it within deepspeed.zero.Init(), or with Transformers keep an "
                    "HfDeepSpeedConfig alive while from_pretrained runs"
                ),
            }
        )
