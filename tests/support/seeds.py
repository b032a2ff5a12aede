"""`@pytest.mark.seed("S2", "Ray Data")`: which feature of the seeds a test shows."""

import pytest

MARK = "seed(seed, feature): the feature of examples/seeds.toml that this test shows"


def note(items: list[pytest.Item]) -> None:
    """Bring the marks into the JUnit report, which tools/seeds.py reads."""
    for item in items:
        for mark in item.iter_markers("seed"):
            item.user_properties.append(("seed", ": ".join(mark.args)))
