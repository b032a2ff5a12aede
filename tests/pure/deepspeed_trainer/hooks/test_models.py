"""A model that every rank holds whole before ZeRO-3 shards it is worth a word, once."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from deepspeed_trainer.hooks.models import ModelWatch

MIB = 1024**2


def a_weight(size_bytes: int, device: str = "cpu", **marks: Any) -> SimpleNamespace:
    return SimpleNamespace(
        numel=lambda: size_bytes // 4,
        element_size=lambda: 4,
        device=SimpleNamespace(type=device),
        **marks,
    )


def facts_of(*weights: SimpleNamespace, stage: int = 3, rank: int = 0) -> list[Mapping[str, Any]]:
    """What is said about an engine that is made of a model with these weights."""

    class Engine:
        def __init__(self, args: Any, model: Any) -> None:
            assert args is None
            for weight in model.parameters():
                weight.ds_id = 1  # as ZeRO-3 does while the engine is made

        def zero_optimization_stage(self) -> int:
            return stage

    facts: list[Mapping[str, Any]] = []
    ModelWatch(rank, facts.append, matters_bytes=100 * MIB).patch(Engine)
    Engine(args=None, model=SimpleNamespace(parameters=lambda: iter(weights)))
    return facts


def test_a_large_model_that_was_built_whole_is_told() -> None:
    (fact,) = facts_of(a_weight(60 * MIB), a_weight(60 * MIB))
    assert fact["kind"] == "advice"
    assert "0.1 GiB" in fact["message"]
    assert "deepspeed.zero.Init()" in fact["message"]


def test_a_model_from_zero_init_is_not() -> None:
    assert facts_of(a_weight(120 * MIB, ds_id=0)) == []


def test_a_small_model_is_not() -> None:
    assert facts_of(a_weight(60 * MIB)) == []


def test_a_model_without_memory_is_not() -> None:
    assert facts_of(a_weight(120 * MIB, device="meta")) == []


def test_a_stage_that_keeps_weights_whole_is_not() -> None:
    assert facts_of(a_weight(120 * MIB), stage=2) == []


def test_one_rank_says_it_for_all() -> None:
    assert facts_of(a_weight(120 * MIB), rank=1) == []
