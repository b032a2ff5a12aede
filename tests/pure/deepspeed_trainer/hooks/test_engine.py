"""What is patched in a rank, where several hooks want the same module."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from deepspeed_trainer.hooks.ends import ENDS
from deepspeed_trainer.hooks.engine import EngineWatch
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.page import Page

CALLBACKS = "transformers.trainer_callback"


def test_transformers_trainer_is_asked_to_save_and_its_save_is_closed() -> None:
    """Two hooks on one module: a program of its own has both, Ray's worker the first."""
    for makes_group, wraps in ((True, 2), (False, 1)):
        facts: list[Mapping[str, Any]] = []
        watch = EngineWatch(0, facts.append, Page.anonymous, OrderPage.anonymous())

        class CallbackHandler:
            def on_train_begin(self) -> None:
                """As the original: nothing of ours."""

            def on_save(self) -> None:
                """As the original: nothing of ours."""

        class DefaultFlowCallback:
            def on_step_end(self) -> None:
                """As the original: nothing of ours."""

        module: Any = SimpleNamespace(
            CallbackHandler=CallbackHandler, DefaultFlowCallback=DefaultFlowCallback
        )
        watch.patches(makes_group=makes_group)[CALLBACKS](module)
        CallbackHandler().on_train_begin()
        assert facts == [{"kind": "saver", "name": "transformers.Trainer"}]
        found, method = 0, CallbackHandler.on_save
        while hasattr(method, "__wrapped__"):
            found, method = found + 1, method.__wrapped__
        assert found == wraps


def test_no_end_of_a_save_is_left_out() -> None:
    watch = EngineWatch(0, lambda _: None, Page.anonymous, OrderPage.anonymous())
    assert set(ENDS) <= set(watch.patches(makes_group=True))
