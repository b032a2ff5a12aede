"""The control of the demo: on labels that mean nothing, nothing is learnt.

Without it, an accuracy could come from a leak between training and held-out words.
"""

import pytest

from tests.support.kube import Kube
from tests.support.quickstart import start


@pytest.mark.usefixtures("operator")
def test_shuffled_labels_teach_nothing(kube: Kube, namespace: str) -> None:
    run = start(kube, namespace, "--shuffle-labels")
    status = run.await_condition("Complete", within_s=400)["status"]
    figures = {each["name"]: float(each["value"]) for each in status["progress"]["metrics"]}
    assert figures["accuracy"] == pytest.approx(0.5, abs=0.03)
