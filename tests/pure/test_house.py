"""The house keeps its own rules: sizes of rooms and functions, and a docstring at every door.

Import directions are kept by import-linter; style by ruff; this test counts what they do not.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("operator/deepspeed_operator", "trainer_image/deepspeed_trainer", "devcluster", "tools")
MOST_LINES = 400
MOST_FUNCTION_LINES = 50


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_module_is_a_room_and_not_a_hall(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_module_says_why_it_exists(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_functions_fit_a_screen(path: Path) -> None:
    long = [
        f"{node.name} ({length} lines)"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno) > MOST_FUNCTION_LINES
    ]
    assert not long, f"{name_of(path)}: {', '.join(long)}"


@pytest.mark.parametrize("folder", ["operator", "trainer_image"])
def test_package_parents_are_no_packages(folder: str) -> None:
    # With operator/__init__.py the stdlib's own operator module would be shadowed.
    assert not (ROOT / folder / "__init__.py").exists()
