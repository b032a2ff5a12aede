"""The table of the seeds: green only where a test has passed, and no feature is left out."""

import re
from pathlib import Path

import pytest

from tools.seeds import (
    LIST,
    PAGE,
    ROOT,
    Row,
    Shown,
    WrongList,
    name_tests,
    read_list,
    read_report,
    write_page,
)

ROW = Row("S2", "Ray Data")
REPORT = """<testsuites><testsuite>
<testcase classname="tests.trainer.test_a" name="test_b[x]">
  <properties><property name="seed" value="S2: Ray Data"/></properties>{}
</testcase>
<testcase classname="tests.trainer.test_a" name="test_unmarked"/>
</testsuite></testsuites>"""


def shown(*results: str) -> list[Shown]:
    return [Shown(ROW.key, f"t{number}", result) for number, result in enumerate(results)]


@pytest.mark.parametrize(
    ("results", "untried", "red"),
    [
        (["passed"], "", []),
        (["passed", "skipped"], "", []),
        (["passed", "failed"], "", ["S2: Ray Data: failed"]),
        (["skipped"], "", ["S2: Ray Data: skipped"]),
        ([], "", ["S2: Ray Data: no test"]),
        ([], "needs GPUs", []),
        (["skipped"], "needs GPUs", []),
        (["failed"], "needs GPUs", ["S2: Ray Data: failed"]),
    ],
)
def test_what_was_not_shown_is_red_unless_it_says_why(
    results: list[str], untried: str, red: list[str]
) -> None:
    row = Row("S2", "Ray Data", untried=untried)
    page, found = write_page({"S2": "a document"}, [row], shown(*results))
    assert found == red
    assert ("- S2: Ray Data: needs GPUs" in page) == bool(untried and not red)


@pytest.mark.parametrize(
    ("inside", "result"),
    [("", "passed"), ("<failure/>", "failed"), ("<error/>", "failed"), ("<skipped/>", "skipped")],
)
def test_a_report_tells_the_marked_tests(inside: str, result: str) -> None:
    found = read_report(REPORT.format(inside))
    assert found == [Shown("S2: Ray Data", "trainer/test_a::test_b[x]", result)]


def test_a_row_links_to_the_line_that_shows_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("a\nread_data()\n")
    row = Row("S2", "Ray Data", "train.py", "read_data")
    page, _ = write_page({}, [row], shown("passed"), tmp_path)
    assert "| S2 | Ray Data | [train.py:2](../train.py#L2) | `t0` | passed |" in page


def test_a_test_with_many_parameters_is_named_once() -> None:
    names = ["a::t[1]", "a::t[2]", "a::u[x]", "a::u[x]"]
    assert name_tests(Shown("", name, "passed") for name in names) == ["a::t", "a::u[x]"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Row("S2", "Ray Data", "absent.py"), "there is no absent.py"),
        (Row("S2", "Ray Data", "train.py", "b"), "no line of train.py has 'b'"),
    ],
)
def test_an_example_that_is_not_there_is_an_error(tmp_path: Path, row: Row, says: str) -> None:
    (tmp_path / "train.py").write_text("a\n")
    with pytest.raises(WrongList, match=says):
        write_page({}, [row], [], tmp_path)


def test_a_mark_that_names_no_feature_is_an_error() -> None:
    with pytest.raises(WrongList, match="S9: other"):
        write_page({}, [ROW], [Shown("S9: other", "t", "passed")])


def test_of_a_test_that_was_run_again_the_last_run_counts() -> None:
    runs = [Shown(ROW.key, "t", result) for result in ("failed", "passed")]
    assert write_page({}, [ROW], runs)[1] == []
    assert write_page({}, [ROW], reversed(runs))[1] == ["S2: Ray Data: failed"]


def test_a_feature_is_listed_once() -> None:
    entry = '[[feature]]\nseed = "S2"\nfeature = "x"\n'
    with pytest.raises(WrongList, match="has twice: S2: x"):
        read_list(f'{entry}{entry}[documents]\nS2 = "d"\n')
    with pytest.raises(WrongList, match="colour"):
        read_list(f'{entry}colour = "red"\n[documents]\nS2 = "d"\n')


def test_the_list_fits_the_examples_and_the_page_has_all_of_it() -> None:
    documents, rows = read_list(LIST.read_text())
    page, _ = write_page(documents, rows, [], ROOT)
    columns = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| S")]
    there = [line.split(" | ")[:2] for line in PAGE.read_text().splitlines() if line[:3] == "| S"]
    assert there == columns, "docs/seeds.md is older than examples/seeds.toml: make seeds"


def test_every_feature_is_marked_in_a_test_or_says_why_not() -> None:
    _, rows = read_list(LIST.read_text())
    marked = {
        f"{seed}: {feature}"
        for folder in ("trainer", "node", "pure/deepspeed_trainer")
        for file in (ROOT / "tests" / folder).rglob("test_*.py")
        for seed, feature in re.findall(r'seed\(\s*"(S\d)",\s*"([^"]+)"', file.read_text())
    }
    assert marked == {row.key for row in rows if not row.untried}
