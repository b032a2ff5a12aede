"""The table of what the seeds show: feature, example, test, result. `make seeds` writes the page.

`python -m tools.seeds REPORT…` reads examples/seeds.toml and pytest's JUnit reports.  A test says
by `@pytest.mark.seed("S2", "Ray Data")` which features it shows.  A feature is green when a test of
it has passed and none has failed; anything else is red and fails the program, unless the list says
that it is untried, and why.
"""

import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "examples" / "seeds.toml"
PAGE = ROOT / "docs" / "seeds.md"
PROPERTY = "seed"
"""Name of the property of a test in a report; tests/support/seeds.py writes it."""
HEAD = """# What the seeds show, and what shows it here

`make seeds` writes this page from the reports of the tests (`make test`, `make test-full` and
`make test-trainer`) and from `examples/seeds.toml`. A feature whose test failed, was skipped or is
missing is red and fails the command; what was not tried is listed with its reason. Of a test that
was run again the last run counts.

| seed | document |
|---|---|
"""


class WrongList(ValueError):
    """The list or a test's mark cannot be."""


@dataclass(frozen=True, slots=True)
class Row:
    """A feature of a seed, and where an example shows it."""

    seed: str
    feature: str
    example: str = ""
    """File or folder, from the repository's root."""
    text: str = ""
    """Words that stand in the line of the file that shows it."""
    untried: str = ""
    """Why no test shows it."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Read an entry of the list. Raises: WrongList for a field that is none."""
        try:
            return cls(**given)
        except TypeError as error:
            raise WrongList(f"{LIST.name}: {dict(given)}: {error}") from error

    @property
    def key(self) -> str:
        """What a mark says."""
        return f"{self.seed}: {self.feature}"

    def find_example(self, root: Path) -> str:
        """Return the example as a link, with the line. Raises: WrongList if it is not there."""
        if not self.example:
            return ""
        file = root / self.example
        if not file.exists():
            raise WrongList(f"{self.key}: there is no {self.example}")
        shown, link = self.example.removeprefix("examples/"), f"../{self.example}"
        if not self.text:
            return f"[{shown}]({link})"
        lines = enumerate(file.read_text().splitlines(), start=1)
        found = next((number for number, line in lines if self.text in line), None)
        if found is None:
            raise WrongList(f"{self.key}: no line of {self.example} has {self.text!r}")
        return f"[{shown}:{found}]({link}#L{found})"


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of a test that shows a feature."""

    key: str
    test: str
    result: str
    """passed, failed or skipped."""


def read_list(text: str) -> tuple[dict[str, str], list[Row]]:
    """Return the seeds' documents and the features. Raises: WrongList when one is there twice."""
    plain = tomllib.loads(text)
    rows = [Row.read(entry) for entry in plain["feature"]]
    twice = {row.key for row in rows if sum(each.key == row.key for each in rows) > 1}
    if twice:
        raise WrongList(f"{LIST.name} has twice: {', '.join(sorted(twice))}")
    return plain["documents"], rows


def read_report(text: str) -> list[Shown]:
    """Return the marked tests of a JUnit report."""
    found = []
    for case in ET.fromstring(text).iter("testcase"):  # noqa: S314  our own tests wrote it
        module = case.get("classname", "").removeprefix("tests.").replace(".", "/")
        test = f"{module}::{case.get('name')}"
        children = {child.tag for child in case}
        result = "failed" if children & {"failure", "error"} else "passed"
        result = "skipped" if "skipped" in children else result
        found += [
            Shown(str(each.get("value")), test, result)
            for each in case.iter("property")
            if each.get("name") == PROPERTY
        ]
    return found


def judge(row: Row, shown: Sequence[Shown]) -> str:
    """Return the result of a feature: passed, untried, or why it is red."""
    results = {each.result for each in shown}
    if "failed" in results:
        return "failed"
    if row.untried:
        return "untried"
    if "passed" in results:
        return "passed"
    return "skipped" if results else "no test"


def name_tests(shown: Iterable[Shown]) -> list[str]:
    """Return the tests of a row, each once; of one with several parameters the name alone."""
    names = list(dict.fromkeys(each.test for each in shown))
    stems = [name.partition("[")[0] for name in names]
    plain = [
        stem if stems.count(stem) > 1 else name for name, stem in zip(names, stems, strict=True)
    ]
    return list(dict.fromkeys(plain))


def write_page(
    documents: Mapping[str, str], rows: Iterable[Row], shown: Iterable[Shown], root: Path = ROOT
) -> tuple[str, list[str]]:
    """Return the page, and what of it is red.

    Raises:
        WrongList: an example or its line is not there, or a test's mark names no feature.
    """
    by_key: dict[str, list[Shown]] = {row.key: [] for row in rows}
    # Of a test that was run again, the last run counts.
    for each in {(each.key, each.test): each for each in shown}.values():
        if each.key not in by_key:
            raise WrongList(f"{each.test} is marked {each.key!r}, which {LIST.name} does not have")
        by_key[each.key].append(each)
    lines = [f"| {seed} | {document} |" for seed, document in documents.items()]
    lines += ["", "| seed | feature | example | test | result |", "|---|---|---|---|---|"]
    red, untried = [], ["", "Not tried:", ""]
    for row in rows:
        result = judge(row, by_key[row.key])
        tests = "<br>".join(f"`{name}`" for name in name_tests(by_key[row.key]))
        told = f"**{result}**" if result not in {"passed", "untried"} else result
        place = row.find_example(root)
        lines.append(f"| {row.seed} | {row.feature} | {place} | {tests} | {told} |")
        if result == "untried":
            untried.append(f"- {row.key}: {row.untried}")
        elif result != "passed":
            red.append(f"{row.key}: {result}")
    return HEAD + "\n".join([*lines, *untried]) + "\n", red


def main() -> int:
    """Write the page from the reports; 1 when something is red."""
    reports = [Path(word) for word in sys.argv[1:]]
    if not reports:
        print("seeds: name the reports: run the tests first (make test test-full test-trainer)")
        return 2
    try:
        documents, rows = read_list(LIST.read_text())
        shown = [each for report in reports for each in read_report(report.read_text())]
        page, red = write_page(documents, rows, shown)
    except (WrongList, OSError, ET.ParseError) as error:
        print(f"seeds: {error}", file=sys.stderr)
        return 2
    PAGE.write_text(page)
    for line in red:
        print(f"red: {line}", file=sys.stderr)
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
