"""The table of abilities names tests that exist, and nothing that it does not name."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "restarts.md").read_text()
ENTRYPOINTS = ["script", "module", "command", "command, `per: Node`", "function", "driver"]
HONEST = ("no", "not yet", "as ", "the program as ")


def named_tests() -> dict[str, str]:
    return dict(re.findall(r"^- ([a-zA-Z]) `(tests/\S+)`$", PAGE, re.MULTILINE))


def rows() -> list[list[str]]:
    """The cells of the table, the first of each row its ability."""
    table = PAGE.split("## What works with which entrypoint")[1].split("\n- a ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def letters(cell: str) -> list[str]:
    return re.findall(r"\b([a-zA-Z])\b", cell)


def test_every_entrypoint_has_a_cell_in_every_row() -> None:
    header, _, *abilities = rows()
    assert header[1:] == ENTRYPOINTS
    assert {len(row) for row in abilities} == {len(ENTRYPOINTS) + 1}


def test_every_cell_names_a_test_or_is_honest() -> None:
    cells = [cell for row in rows()[2:] for cell in row[1:]]
    assert all(letters(cell) or cell.startswith(HONEST) for cell in cells), cells
    used = {letter for cell in cells for letter in letters(cell)}
    assert used == set(named_tests())


def test_every_test_that_is_named_exists() -> None:
    for name in named_tests().values():
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function in defined, name
