"""Every trap of the page has a test, and the test exists."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "traps.md").read_text()
HEADS = {"trap", "---"}


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in HEADS]


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_trap_has_its_row_and_its_test() -> None:
    assert len(rows()) > 30
    for row in rows():
        trap, here, named = row
        assert here, trap
        found = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", named)
        assert found, f"no test: {trap}"
        assert ", ".join(f"`{path}::{name}`" for path, name in found) == named
        missing = [name for path, name in found if name not in functions_of(path)]
        assert missing == [], trap


def test_no_trap_is_there_twice() -> None:
    traps = [row[0] for row in rows()]
    assert len(set(traps)) == len(traps)
