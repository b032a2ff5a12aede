"""An engine that is made with "auto" gets a word that names the keys."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from deepspeed_trainer.hooks.settings import SettingsWatch

CONFIG = {"gradient_clipping": "auto", "train_batch_size": "auto", "steps_per_print": 5}


class DeepSpeed(ModuleType):
    """Stands for the package."""

    def __init__(self) -> None:
        super().__init__("deepspeed")

        def initialize(args: Any = None, model: Any = None, config: Any = None) -> str:
            return "an engine"

        self.initialize = initialize


def facts_of(rank: int = 0, **given: Any) -> list[Mapping[str, Any]]:
    facts: list[Mapping[str, Any]] = []
    module = DeepSpeed()
    SettingsWatch(rank, facts.append).patch(module)
    assert module.initialize(**given) == "an engine"
    return facts


def test_the_keys_are_named() -> None:
    (fact,) = facts_of(config=CONFIG)
    assert fact["kind"] == "advice"
    assert '"auto" for gradient_clipping, train_batch_size:' in fact["message"]


def test_a_file_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    assert facts_of(config=str(file)) == facts_of(config=CONFIG)
    assert facts_of(args=SimpleNamespace(deepspeed_config=str(file))) == facts_of(config=CONFIG)


@pytest.mark.parametrize("config", [{"steps_per_print": 5}, None, "eyJhIjogMX0="])
def test_what_holds_no_auto_is_left_to_deepspeed(config: Any) -> None:
    assert facts_of(config=config) == []


def test_one_rank_says_it_for_all() -> None:
    assert facts_of(rank=1, config=CONFIG) == []
