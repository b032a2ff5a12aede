"""With another number of ranks the same global batch, or no step at all."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.contract import Cause
from deepspeed_trainer.hooks.batch import WrongBatchSize, require_same_batch


def an_engine(train: int) -> SimpleNamespace:
    return SimpleNamespace(train_batch_size=lambda: train)


def test_the_same_batch_and_an_unchanged_size_pass() -> None:
    facts: list[Mapping[str, Any]] = []
    require_same_batch(an_engine(8), (8, 2, 4), facts.append)
    require_same_batch(an_engine(4), (), facts.append)
    assert facts == []


def test_another_batch_is_told_to_the_head_and_to_the_program() -> None:
    facts: list[Mapping[str, Any]] = []
    with pytest.raises(WrongBatchSize) as raised:
        require_same_batch(an_engine(4), (8, 2, 4), facts.append)
    assert [fact["cause"] for fact in facts] == [Cause.WRONG_BATCH_SIZE]
    for said in (str(raised.value), facts[0]["message"]):
        assert "train_micro_batch_size_per_gpu 2 and gradient_accumulation_steps 4" in said
