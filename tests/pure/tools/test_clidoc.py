"""The reference of dsjob is that of the command as it is."""

from pathlib import Path

from tools.clidoc import render_cli_reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def test_the_page_is_the_one_that_the_command_leads_to() -> None:
    assert PAGE.read_text() == render_cli_reference(), "run `make gen`"


def test_every_verb_and_exit_code_is_on_the_page() -> None:
    page = render_cli_reference()
    for word in ("submit", "status", "list", "run", "--namespace", "--watch", "| 130 |"):
        assert word in page
