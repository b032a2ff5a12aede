"""What the pages on devcluster tell a reader to type exists, and no command is kept from them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from devcluster.__main__ import main
from devcluster.detection import DETECTIONS

ROOT = Path(__file__).resolve().parents[3]
PAGES = (ROOT / "docs" / "devcluster.md", ROOT / "devcluster" / "README.md")


def told(page: Path) -> Iterator[list[str]]:
    """The words after `python -m devcluster` of each line that a reader is told to type."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for call in re.findall(r"python -m devcluster ([^\n)]+)", block):
            yield shlex.split(call)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_the_pages_is_understood(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where the files that they name are
    calls = list(told(page))
    assert calls
    for name, *words in calls:
        command = main.commands[name]
        with command.make_context(name, list(words)):  # parses, and does not run
            assert click.get_current_context().command is command


def test_every_command_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in main.commands if f"`{name}" not in text] == []


def test_the_page_has_the_figures_of_detection() -> None:
    text = PAGES[0].read_text()
    for index, field in enumerate(("grace_period", "status_frequency")):
        stock, fast = (getattr(DETECTIONS[name], field) for name in ("stock", "fast"))
        row = f"| {stock.rstrip('s')} s | {fast.rstrip('s')} s |"
        assert row in text, (index, row)
