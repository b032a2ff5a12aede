"""The reference of dsjob is that of the command as it is, and what readers are told to type is."""

import re
import shlex
from pathlib import Path

import pytest

from deepspeed_operator.cli.main import main
from tools.clidoc import render_cli_reference

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "cli.md"
COMMAND = re.compile(r"^\$? ?dsjob (.+)$|`dsjob ([a-z].+?)`", re.MULTILINE)
PAGES = (ROOT / "README.md", PAGE)
TYPED = sorted({found for page in PAGES for found in COMMAND.findall(page.read_text())})


def test_the_page_is_the_one_that_the_command_leads_to() -> None:
    assert PAGE.read_text() == render_cli_reference(), "run `make gen`"


def test_every_verb_and_exit_code_is_on_the_page() -> None:
    page = render_cli_reference()
    for word in ("submit", "status", "list", "run", "--namespace", "--watch", "| 130 |"):
        assert word in page


@pytest.mark.parametrize("found", TYPED, ids="".join)
def test_what_a_reader_is_told_to_type_can_be_typed(found: tuple[str, str]) -> None:
    verb, *words = shlex.split("".join(found), comments=True)
    main.commands[verb].make_context(verb, words)


def test_what_readers_are_told_is_found() -> None:
    assert len(TYPED) > 8
