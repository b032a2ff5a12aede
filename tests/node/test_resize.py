"""A job gets another number of nodes while it trains, and goes on from its newest checkpoint.

Real here: all of it.  Two ranks a node, because the quickstart's program refuses to train with one.
The figures are compared in tests/trainer/test_resize.py.
"""

from collections.abc import Callable

import pytest

from tests.node.test_restart import committed_steps
from tests.support.eventually import eventually
from tests.support.quickstart import JOB, Run

STEPS = 16


@pytest.mark.usefixtures("operator")
def test_nodes_are_changed_while_it_trains(quickstart: Callable[..., Run]) -> None:
    run = quickstart(
        *("--steps", str(STEPS), "--save-interval", "4", "--held-out", "64"),
        gpusPerNode=2,
        worker={"resources": {"cpu": "500m", "memory": "5Gi"}, "sharedMemory": "512Mi"},
        failurePolicy={"maxRestarts": 0},
    )
    run.await_condition("Running")
    eventually(lambda: committed_steps(run.events(1)), "a checkpoint counts", within_s=180)
    run.kube.patch(JOB, run.name, {"spec": {"nodes": 1}}, run.namespace)
    run.await_condition("Complete")
    status = run.job()["status"]
    first, second = status["attempts"]
    assert (first["nodes"], first["cause"]) == (2, "Resized")
    assert (second["nodes"], second["state"]) == (1, "Succeeded")
    assert first["cluster"] != second["cluster"]
    assert (status["restarts"], status["worldSize"]) == (0, 2), "it cost no restart"
    saved = max(committed_steps(run.events(1)))
    assert (second["resumedFromStep"], second["firstStep"]) == (saved, saved + 1)
    assert status["progress"]["step"] == STEPS
    [converted] = [e for e in run.events(2) if e["event"] == "converted"]
    assert converted["message"] in status["progress"]["notice"]
