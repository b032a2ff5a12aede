"""What holds for every run of tests: signals as in front of a terminal, and a count of skips.

What was skipped, and why, is said at the end; where CI is set, a skip fails the run, but not one
that the user chose: with CLUSTER=existing, say, a test of the dev cluster has no place.
"""

import os
import signal
from collections import Counter

import pytest

from tests.support.seeds import MARK, note

BY_CHOICE = "by choice: "


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)
    # A shell starts what runs in its background with SIGINT ignored, and all children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    note(items)


def skips(reporter: pytest.TerminalReporter) -> Counter[str]:
    """How many tests were skipped, by reason."""
    found = reporter.stats.get("skipped", [])
    return Counter(str(each.longrepr[2]).removeprefix("Skipped: ") for each in found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, count in skips(terminalreporter).items():
        terminalreporter.write_line(f"skipped {count}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    if any(not reason.startswith(BY_CHOICE) for reason in skips(reporter)):
        reporter.write_line("CI is set, so a skipped test fails the run")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
