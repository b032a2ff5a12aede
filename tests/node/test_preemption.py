"""A worker's pod is deleted while its ranks train: they save first, and no step is lost.

Real here: all of it.  The kubelet runs the pod's hook and kills the pod when its grace is over;
what the ranks say to each other meanwhile is tests/trainer's business.
"""

import json
from collections.abc import Callable

import pytest

from tests.node.test_entrypoints import CONFIG, PROGRAMS, config_map
from tests.support.eventually import eventually
from tests.support.kube import Kube
from tests.support.quickstart import Run


def steps_of(run: Run, attempt: int, event: str) -> set[int]:
    return {line["step"] for line in run.events(attempt) if line["event"] == event}


@pytest.mark.usefixtures("operator")
def test_a_worker_that_is_deleted_saves_before_it_goes(
    quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    file = PROGRAMS / "told_to_go.py"
    kube.apply(config_map("code", namespace, {file.name: file.read_text()}))
    run = quickstart(
        entrypoint={"script": file.name, "args": ["--how=loop"]},
        code={"configMap": {"name": "code"}},
        deepspeed={"config": json.loads(CONFIG)},
        failurePolicy={"maxRestarts": 0},
        preemption={"graceSeconds": 120},
    )
    run.await_condition("Running")
    eventually(lambda: steps_of(run, 1, "firstStep"), "the ranks train", within_s=180)
    victim = kube.list("pods", namespace, "ray.io/node-type=worker")[1]["metadata"]["name"]
    kube.delete("pod", victim, namespace)  # and wait until the kubelet has seen it end
    events = run.events(1)
    [step] = {line["step"] for line in events if line["event"] == "held"}
    order = [line["event"] for line in events if line["event"] in ("committed", "ended")]
    assert order == ["committed", "ended", "ended"], "the save counts while the ranks still live"
    assert steps_of(run, 1, "committed") == {step}

    eventually(lambda: steps_of(run, 2, "firstStep"), "another attempt trains", within_s=300)
    assert steps_of(run, 2, "firstStep") == {step + 1}
    status = run.job()["status"]
    first, second = status["attempts"]
    assert (first["cause"], second["cluster"]) == ("Preempted", first["cluster"])
    assert status["restarts"] == 0
    assert status["failure"]["message"] == (
        f"pod {victim} was told to go; all ranks saved at step {step} and stopped; no step is lost"
    )
