"""Patches run right after an import, once, and never break it."""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deepspeed_trainer.hooks.patching import PatchOnImport


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that copies a name from its module, as torch.distributed does."""
    folder = tmp_path / "sample_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("from sample_package.inner import answer\n")
    (folder / "inner.py").write_text("def answer():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.meta_path)
    yield "sample_package.inner"
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if name.startswith("sample_package")]:
        del sys.modules[name]


def answer_two(module: ModuleType) -> None:
    module.answer = lambda: 2  # type: ignore[attr-defined]


def test_a_copy_made_by_the_package_is_already_patched(package: str) -> None:
    PatchOnImport({package: answer_two}, print).install()
    assert importlib.import_module("sample_package").answer() == 2


def test_a_module_that_is_already_there_is_patched_at_once(package: str) -> None:
    module = importlib.import_module(package)
    PatchOnImport({package: answer_two}, print).install()
    assert module.answer() == 2


def test_a_failing_patch_is_told_and_the_import_goes_on(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    facts: list[Any] = []

    def fail(module: ModuleType) -> None:
        raise AttributeError("renamed")

    PatchOnImport({package: fail}, facts.append).install()
    assert importlib.import_module("sample_package").answer() == 1
    assert [fact["kind"] for fact in facts] == ["hook"]
    assert "renamed" in facts[0]["failure"]
    assert "renamed" in capsys.readouterr().err


def test_source_and_origin_of_a_patched_module_stay(package: str) -> None:
    PatchOnImport({package: answer_two}, print).install()
    module = importlib.import_module(package)
    assert "return 1" in inspect.getsource(module)
    assert importlib.reload(module) is module


def test_a_module_that_does_not_exist_still_does_not(package: str) -> None:
    PatchOnImport({"sample_package.absent": answer_two}, print).install()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("sample_package.absent")
