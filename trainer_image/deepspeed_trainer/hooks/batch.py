"""The global batch of an engine: told with each save, and kept when the number of ranks changes."""

from collections.abc import Sequence
from typing import Any

from deepspeed_trainer.batching import ACCUMULATION, MICRO, Batch
from deepspeed_trainer.contract import Cause
from deepspeed_trainer.hooks.wire import Report


class WrongBatchSize(RuntimeError):
    """The program would go on with another global batch; the message says what to set."""


def describe_batch(engine: Any) -> dict[str, int]:
    """Return an engine's batch for a checkpoint's manifest."""
    return Batch(
        train=int(engine.train_batch_size()),
        micro=int(engine.train_micro_batch_size_per_gpu()),
        accumulation=int(engine.gradient_accumulation_steps()),
    ).to_wire()


def require_same_batch(engine: Any, wanted: Sequence[int], report: Report) -> None:
    """Let no engine continue with another global batch; nothing is wanted while ranks are as many.

    Raises, in the program's call: WrongBatchSize, after the head was told.
    """
    if not wanted:
        return
    train, micro, accumulation = wanted
    found = int(engine.train_batch_size())
    if found == train:
        return
    message = (
        f"the checkpoint was trained with a global batch of {train} samples, with this number of"
        f" ranks the program has {found}: set {MICRO} {micro} and {ACCUMULATION} {accumulation}"
        " where it takes them from"
    )
    report({"kind": "verdict", "cause": Cause.WRONG_BATCH_SIZE, "message": message})
    raise WrongBatchSize(message)
