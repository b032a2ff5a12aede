"""An image that no node has, as a real kubelet sees it: the user is told, and no pod stays."""

import time
from collections.abc import Callable

import pytest

from tests.support.eventually import eventually
from tests.support.kube import Kube, condition
from tests.support.quickstart import Run

GONE_WITHIN_S = 30


@pytest.mark.usefixtures("operator")
def test_image_that_is_nowhere_ends_the_job_and_its_pods(
    quickstart: Callable[..., Run], kube: Kube, namespace: str
) -> None:
    run = quickstart(image="localhost/no-such-image:1", imagePullPolicy="Never")
    job = run.await_condition("Failed", within_s=120)
    failed = condition(job, "Failed")
    verdict_at = time.monotonic()
    assert failed["reason"] == "ImagePullFailed"
    assert "localhost/no-such-image:1" in failed["message"]
    eventually(
        lambda: not kube.list("pods", namespace), "its pods are gone", within_s=GONE_WITHIN_S
    )
    print(f"pods gone {time.monotonic() - verdict_at:.1f} s after the verdict: {failed['message']}")
    assert len(job["status"]["attempts"]) == 1, "no restart can help"
