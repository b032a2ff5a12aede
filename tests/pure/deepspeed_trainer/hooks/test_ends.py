"""A framework's save is half until its own method has returned, also where that fails."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.hooks.ends import end_patches
from deepspeed_trainer.hooks.guard import Guard


def a_module(owner: str, **methods: Any) -> Any:
    return SimpleNamespace(**{owner: type(owner, (), methods)})


class Watch:
    """What is called, in its order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        guard = Guard(lambda fact: self.calls.append(str(fact)))
        self.patches = end_patches(guard, self.calls.append, lambda: self.calls.append("end"))

    def patch(self, name: str, module: Any) -> None:
        self.patches[name](module)

    def save(self, *_: Any) -> None:
        self.calls.append("save")


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_save_is_within_its_framework_s_method_until_that_returns(watch: Watch) -> None:
    module = a_module("Accelerator", save_state=watch.save)
    watch.patch("accelerate.accelerator", module)
    module.Accelerator().save_state()
    assert watch.calls == ["Accelerator.save_state", "save", "end"]


def test_one_that_raises_has_no_end(watch: Watch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no room")

    module = a_module("Trainer", save_checkpoint=fail)
    watch.patch("lightning.pytorch.trainer.trainer", module)
    with pytest.raises(RuntimeError):
        module.Trainer().save_checkpoint()
    assert watch.calls == ["Trainer.save_checkpoint"]


def test_transformers_save_lasts_from_its_trainer_to_its_callbacks(watch: Watch) -> None:
    trainer = a_module("Trainer", _save_checkpoint=watch.save)
    handler = a_module("CallbackHandler", on_save=lambda *_: None)
    watch.patch("transformers.trainer", trainer)
    watch.patch("transformers.trainer_callback", handler)
    trainer.Trainer()._save_checkpoint()
    assert watch.calls == ["Trainer._save_checkpoint", "save"]
    handler.CallbackHandler().on_save()
    assert watch.calls[-1] == "end"


def test_a_release_that_names_its_beginning_otherwise_is_left_alone(watch: Watch) -> None:
    watch.patch("transformers.trainer", ModuleType("trainer"))
    assert watch.calls == []
