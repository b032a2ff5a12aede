"""The control of the demo: on labels that mean nothing, nothing is learnt.

Without it, an accuracy could come from a leak between training and held-out words.
"""

from collections.abc import Callable

import pytest

from tests.support.quickstart import Run


@pytest.mark.usefixtures("operator")
def test_shuffled_labels_teach_nothing(quickstart: Callable[..., Run]) -> None:
    run = quickstart("--shuffle-labels")
    status = run.await_condition("Complete", within_s=400)["status"]
    figures = {each["name"]: float(each["value"]) for each in status["progress"]["metrics"]}
    assert figures["accuracy"] == pytest.approx(0.5, abs=0.03)
