"""What is patched in a rank, where several hooks want the same module."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from deepspeed_trainer.hooks.ends import BEGINS, ENDS
from deepspeed_trainer.hooks.engine import EngineWatch
from deepspeed_trainer.hooks.orderpage import OrderPage
from deepspeed_trainer.hooks.page import Page

CALLBACKS = "transformers.trainer_callback"


def test_transformers_trainer_is_asked_to_save_and_its_save_is_closed() -> None:
    """Two hooks on one module; in Ray's worker its save stays open, but is whole."""
    for makes_group, told in ((True, "save_end"), (False, "save_whole")):
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
        watch._saves._is_open = True
        CallbackHandler().on_save()
        assert facts[1]["kind"] == told


def test_no_end_of_a_save_is_left_out() -> None:
    watch = EngineWatch(0, lambda _: None, Page.anonymous, OrderPage.anonymous())
    assert {*ENDS, *BEGINS} <= set(watch.patches(makes_group=True))
