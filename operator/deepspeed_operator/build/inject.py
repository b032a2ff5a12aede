"""The trainer brought into an image that need not hold it: an init container copies it in.

It comes from the operator's own image, so that it speaks this operator's contract and needs no
image of its own.  What is copied is pure Python.  Where the image holds a trainer too, as one that
was built on the trainer image does, the copy takes its place: it lies where that one lay.
"""

import shlex
from typing import Any, Final

from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_trainer import contract

NAME: Final = "trainer"
"""Of the volume and of the init container."""
PACKAGE: Final = f"{contract.TRAINER_MOUNT}/deepspeed_trainer"
STAGING: Final = "/trainer"
"""Where the init container sees the volume: its own trainer lies where the volume goes later."""
BUCKETS: Final = "--buckets"
EXPORT: Final = "--export"
"""Arguments of the look at the image: what the job needs besides (see the trainer's supported)."""


def inject_trainer(pod: dict[str, Any], spec: DeepSpeedJobSpec, injector: str) -> dict[str, Any]:
    """Return a pod template whose container starts with the trainer of the image `injector`."""
    body = pod["spec"]
    [container] = body["containers"]
    mount = {"name": NAME, "mountPath": contract.TRAINER_MOUNT}
    entering = {
        **container,
        # KubeRay puts these words before its own, and joins both in one bash.
        "args": [_build_entry(spec)],
        # What the entry says of an unfit image is all that was logged by then.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": _build_lifecycle(container["lifecycle"], spec),
        "volumeMounts": [*container["volumeMounts"], mount],
    }
    before = [_build_copy(container, spec, injector), *body.get("initContainers", [])]
    volumes = [*body["volumes"], {"name": NAME, "emptyDir": {}}]
    return {
        **pod,
        "spec": {**body, "initContainers": before, "containers": [entering], "volumes": volumes},
    }


def _build_entry(spec: DeepSpeedJobSpec) -> str:
    uses_bucket = spec.storage is not None and spec.storage.uri is not None
    parts = {BUCKETS: uses_bucket, EXPORT: spec.checkpoint.export is not None}
    return " ".join([".", f"{PACKAGE}/enter.sh", *(part for part, used in parts.items() if used)])


def _build_lifecycle(lifecycle: dict[str, Any], spec: DeepSpeedJobSpec) -> dict[str, Any]:
    """Return the hooks, entered too: the kubelet runs them beside the container's own command."""
    return {
        name: {"exec": {"command": ["/bin/bash", "-c", _build_hook(hook["exec"]["command"], spec)]}}
        for name, hook in lifecycle.items()
    }


def _build_hook(command: list[str], spec: DeepSpeedJobSpec) -> str:
    return f"{_build_entry(spec)} && exec {shlex.join(command)}"


def _build_copy(container: dict[str, Any], spec: DeepSpeedJobSpec, injector: str) -> dict[str, Any]:
    copy: dict[str, Any] = {
        "name": NAME,
        "image": injector,
        # With their times, or Python would not take the compiled files for those of their sources.
        "command": ["cp", "-r", "--preserve=timestamps", PACKAGE, STAGING],
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": "64Mi"},
        },
        "securityContext": container["securityContext"],
        "volumeMounts": [{"name": NAME, "mountPath": STAGING}],
    }
    if spec.image_pull_policy is not None:
        copy["imagePullPolicy"] = spec.image_pull_policy
    return copy
