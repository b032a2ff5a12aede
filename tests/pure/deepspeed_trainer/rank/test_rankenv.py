"""How a rank's process is called: the words, what is added to them, what is put into them."""

import sys
from typing import Any

import pytest

from deepspeed_trainer.contract import Entrypoint, EntrypointKind
from deepspeed_trainer.rank import rankenv
from tests.pure.deepspeed_trainer.makers import a_contract

ENV = {"LOCAL_RANK": "1", "DSJOB_DEEPSPEED_CONFIG": "/run/ds.json", "OUT": "/data"}
PYTHON = [sys.executable, "-u"]


def command_of(kind: EntrypointKind, target: str, *args: str, **more: Any) -> list[str]:
    entrypoint = Entrypoint(kind, target, args, **more)
    return rankenv.rank_command(a_contract(entrypoint=entrypoint), ENV)


def test_a_script_is_called_as_the_launcher_calls_it() -> None:
    assert command_of(EntrypointKind.SCRIPT, "train.py", "--lr", "1") == [
        *PYTHON, "train.py", "--local_rank=1", "--lr", "1", "--deepspeed_config", "/run/ds.json",
    ]  # fmt: skip


def test_a_module_is_called_by_python_m() -> None:
    called = command_of(EntrypointKind.MODULE, "pkg.train")
    assert called[:5] == [*PYTHON, "-m", "pkg.train", "--local_rank=1"]


def test_local_rank_can_be_left_out() -> None:
    called = command_of(EntrypointKind.SCRIPT, "train.py", local_rank_arg=False)
    assert called == [*PYTHON, "train.py", "--deepspeed_config", "/run/ds.json"]


def test_a_command_gets_nothing_beyond_its_own_words() -> None:
    called = command_of(EntrypointKind.COMMAND, "./train.sh", "-v")
    assert called[-2:] == ["./train.sh", "-v"]
    assert "deepspeed_trainer.rank.command" in called


def test_no_configuration_is_passed_where_the_job_has_none() -> None:
    entrypoint = Entrypoint(EntrypointKind.SCRIPT, "train.py")
    called = rankenv.rank_command(a_contract(entrypoint=entrypoint), {"LOCAL_RANK": "0"})
    assert called == [*PYTHON, "train.py", "--local_rank=0"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("--out=$(OUT)/a", "--out=/data/a"),
        ("$(OUT)$(OUT)", "/data/data"),
        ("$$(OUT)", "$(OUT)"),
        ("$(MISSING)", "$(MISSING)"),
        ("$OUT ${OUT}", "$OUT ${OUT}"),
    ],
)
def test_references_are_those_of_a_pod(given: str, wanted: str) -> None:
    assert rankenv.expand(given, ENV) == wanted


def test_the_batch_that_the_configuration_makes_can_be_named_in_arguments() -> None:
    """So that a framework with arguments of its own follows the number of ranks."""
    config = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2}
    words = "--per_device_train_batch_size=$(DSJOB_MICRO_BATCH_SIZE)"
    for nodes, accumulation in ((2, "2"), (1, "4")):
        env = rankenv.job_env(a_contract(deepspeed_config=config, nodes=nodes), None)
        assert rankenv.expand(words, env) == "--per_device_train_batch_size=2"
        assert rankenv.expand("$(DSJOB_GRADIENT_ACCUMULATION_STEPS)", env) == accumulation


def test_a_batch_that_a_framework_fills_in_is_not_named() -> None:
    config = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": 2}
    env = rankenv.job_env(a_contract(deepspeed_config=config), None)
    assert "DSJOB_MICRO_BATCH_SIZE" not in env
