"""Every field of the spec does something: a change of it changes what the operator builds or does.

The list of fields is the CRD's own, so a field that nobody renders cannot be added in silence.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.build.raycluster import build_raycluster
from deepspeed_operator.decide.observed import Prerequisites, RunState
from tests.support.builders import (
    DEFAULTS,
    SHARED,
    JobBuilder,
    a_cluster,
    a_job,
    observed,
    ready_pods,
)
from tests.support.passes import cluster_name, decide, with_run

CRD = Path(__file__).resolve().parents[3] / "crds" / "deepspeedjobs.dsjob.dev.yaml"
CONFIG_MAPS = {
    "a": {"ds_config.json": '{"a": 1}', "k": '{"k": 1}', ".deepspeed_env": "A=1", "e": "E=1"},
    "b": {"ds_config.json": '{"b": 1}', ".deepspeed_env": "B=1"},
}
CPU = {"type": "CPU"}
SCRIPT = {"script": "train.py"}
GIT = {"url": "https://a/b.git"}
ARCHIVE = {"uri": "s3://bucket/a.zip", "sha256": "0" * 64}
KEEP_ONE = {"checkpoint": {"keep": {"last": 1}}}
GPU = {"accelerator": {"type": "Nvidia"}}

# Field: two specs' worth of changes that differ in that field alone.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nodes": ({"nodes": 2}, {"nodes": 3}),
    "gpusPerNode": ({"gpusPerNode": 1}, {"gpusPerNode": 2}),
    "accelerator.type": ({"accelerator": CPU}, GPU),
    "accelerator.resourceName": (
        GPU,
        {"accelerator": {"type": "Nvidia", "resourceName": "nvidia.com/mig-1g.5gb"}},
    ),
    "image": ({"image": "a:1"}, {"image": "a:2"}),
    "imagePullPolicy": ({"imagePullPolicy": "Always"}, {"imagePullPolicy": "Never"}),
    "entrypoint.script": ({"entrypoint": SCRIPT}, {"entrypoint": {"script": "b.py"}}),
    "entrypoint.module": ({"entrypoint": {"module": "a"}}, {"entrypoint": {"module": "b"}}),
    "entrypoint.command": (
        {"entrypoint": {"command": ["./a.sh"]}},
        {"entrypoint": {"command": ["./a.sh", "-v"]}},
    ),
    "entrypoint.function": (
        {"entrypoint": {"function": "a:f"}},
        {"entrypoint": {"function": "a:g"}},
    ),
    "entrypoint.driver": ({"entrypoint": {"driver": "a.py"}}, {"entrypoint": {"driver": "b.py"}}),
    "entrypoint.args": ({"entrypoint": SCRIPT}, {"entrypoint": {**SCRIPT, "args": ["-v"]}}),
    "entrypoint.config": (
        {"entrypoint": {"function": "a:f"}},
        {"entrypoint": {"function": "a:f", "config": {"lr": "1"}}},
    ),
    "entrypoint.data": (
        {"entrypoint": {"function": "a:f"}},
        {
            "entrypoint": {
                "function": "a:f",
                "data": [{"name": "train", "format": "Json", "paths": ["/data"]}],
            }
        },
    ),
    "entrypoint.localRankArg": (
        {"entrypoint": SCRIPT},
        {"entrypoint": {**SCRIPT, "localRankArg": False}},
    ),
    "entrypoint.distributed": (
        {"entrypoint": SCRIPT},
        {"entrypoint": {**SCRIPT, "distributed": False}},
    ),
    "entrypoint.per": (
        {"entrypoint": {"command": ["a"]}},
        {"entrypoint": {"command": ["a"], "per": "Node"}},
    ),
    "entrypoint.sizing": (
        {"entrypoint": {"driver": "a.py"}},
        {"entrypoint": {"driver": "a.py", "sizing": "Program"}},
    ),
    "entrypoint.workingDir": (
        {"entrypoint": SCRIPT},
        {"entrypoint": {**SCRIPT, "workingDir": "/app"}},
    ),
    "code.configMap.name": (
        {"code": {"configMap": {"name": "a"}}},
        {"code": {"configMap": {"name": "b"}}},
    ),
    "code.git.url": ({"code": {"git": GIT}}, {"code": {"git": {**GIT, "url": "https://b/c"}}}),
    "code.git.ref": ({"code": {"git": GIT}}, {"code": {"git": {**GIT, "ref": "v1"}}}),
    "code.git.path": ({"code": {"git": GIT}}, {"code": {"git": {**GIT, "path": "src"}}}),
    "code.git.secretRef.name": (
        {"code": {"git": {**GIT, "secretRef": {"name": "a"}}}},
        {"code": {"git": {**GIT, "secretRef": {"name": "b"}}}},
    ),
    "code.archive.uri": (
        {"code": {"archive": ARCHIVE}},
        {"code": {"archive": {**ARCHIVE, "uri": "s3://bucket/b.zip"}}},
    ),
    "code.archive.sha256": (
        {"code": {"archive": ARCHIVE}},
        {"code": {"archive": {**ARCHIVE, "sha256": "1" * 64}}},
    ),
    "code.archive.path": (
        {"code": {"archive": ARCHIVE}},
        {"code": {"archive": {**ARCHIVE, "path": "src"}}},
    ),
    "code.archive.secretRef.name": (
        {"code": {"archive": {**ARCHIVE, "secretRef": {"name": "a"}}}},
        {"code": {"archive": {**ARCHIVE, "secretRef": {"name": "b"}}}},
    ),
    "code.volume.claim": (
        {"code": {"volume": {"claim": "a"}}},
        {"code": {"volume": {"claim": "b"}}},
    ),
    "code.volume.path": (
        {"code": {"volume": {"claim": "a"}}},
        {"code": {"volume": {"claim": "a", "path": "src"}}},
    ),
    "deepspeed.config": ({}, {"deepspeed": {"config": {"steps_per_print": 1}}}),
    "deepspeed.configMap.name": (
        {"deepspeed": {"configMap": {"name": "a"}}},
        {"deepspeed": {"configMap": {"name": "b"}}},
    ),
    "deepspeed.configMap.key": (
        {"deepspeed": {"configMap": {"name": "a"}}},
        {"deepspeed": {"configMap": {"name": "a", "key": "k"}}},
    ),
    "deepspeed.env": ({}, {"deepspeed": {"env": {"NCCL_DEBUG": "INFO"}}}),
    "deepspeed.envFile.configMap.name": (
        {"deepspeed": {"envFile": {"configMap": {"name": "a"}}}},
        {"deepspeed": {"envFile": {"configMap": {"name": "b"}}}},
    ),
    "deepspeed.envFile.configMap.key": (
        {"deepspeed": {"envFile": {"configMap": {"name": "a"}}}},
        {"deepspeed": {"envFile": {"configMap": {"name": "a", "key": "e"}}}},
    ),
    "storage.volumeClaim": (
        {"storage": {"volumeClaim": "a"}},
        {"storage": {"volumeClaim": "b"}},
    ),
    "storage.uri": ({"storage": {"uri": "s3://a"}}, {"storage": {"uri": "s3://b/c"}}),
    "storage.secretRef.name": (
        {"storage": {"uri": "s3://a", "secretRef": {"name": "a"}}},
        {"storage": {"uri": "s3://a", "secretRef": {"name": "b"}}},
    ),
    "checkpoint.keep.last": (KEEP_ONE, {"checkpoint": {"keep": {"last": 2}}}),
    "checkpoint.keep.every": (KEEP_ONE, {"checkpoint": {"keep": {"last": 1, "every": 5}}}),
    "checkpoint.keep.best.metric": (
        KEEP_ONE,
        {"checkpoint": {"keep": {"last": 1, "best": {"metric": "loss"}}}},
    ),
    "checkpoint.keep.best.mode": (
        {"checkpoint": {"keep": {"last": 1, "best": {"metric": "loss"}}}},
        {"checkpoint": {"keep": {"last": 1, "best": {"metric": "loss", "mode": "Max"}}}},
    ),
    "checkpoint.export.safetensors": (
        {},
        {"checkpoint": {"export": {"safetensors": "Float32"}}},
    ),
    "checkpoint.resume.onIgnored": ({}, {"checkpoint": {"resume": {"onIgnored": "Continue"}}}),
    "checkpoint.onWorldSizeChange": ({}, {"checkpoint": {"onWorldSizeChange": "Fail"}}),
    "checkpoint.resume.from": (
        {"checkpoint": {"resume": {"mode": "From", "from": "team/bert/uid/run-1"}}},
        {"checkpoint": {"resume": {"mode": "From", "from": "team/bert/uid/run-2"}}},
    ),
    "checkpoint.resume.mode": ({}, {"checkpoint": {"resume": {"mode": "Never"}}}),
    "failurePolicy.maxRestarts": (
        {"failurePolicy": {"maxRestarts": 0}},
        {"failurePolicy": {"maxRestarts": 1}},
    ),
    "failurePolicy.backoffSeconds": (
        {"failurePolicy": {"backoffSeconds": 1}},
        {"failurePolicy": {"backoffSeconds": 60}},
    ),
    "preemption.graceSeconds": ({}, {"preemption": {"graceSeconds": 120}}),
    "preemption.signal": ({}, {"preemption": {"signal": "SIGUSR1"}}),
    "hang.enabled": ({}, {"hang": {"enabled": False}}),
    "hang.minSeconds": ({}, {"hang": {"minSeconds": 60}}),
    "hang.factor": ({}, {"hang": {"factor": 10}}),
    "hang.startDeadlineSeconds": ({}, {"hang": {"startDeadlineSeconds": 60}}),
    "ttlSecondsAfterFinished": ({}, {"ttlSecondsAfterFinished": 60}),
    "scheduling.nodeSelector": ({}, {"scheduling": {"nodeSelector": {"zone": "a"}}}),
    "scheduling.lostNodeTolerationSeconds": (
        {},
        {"scheduling": {"lostNodeTolerationSeconds": 5}},
    ),
    "head.resources.cpu": ({}, {"head": {"resources": {"cpu": 2}}}),
    "head.resources.memory": ({}, {"head": {"resources": {"memory": "6Gi"}}}),
    "worker.resources.cpu": ({}, {"worker": {"resources": {"cpu": 2}}}),
    "worker.resources.memory": ({}, {"worker": {"resources": {"memory": "6Gi"}}}),
    "worker.bindCores": ({}, {"worker": {"bindCores": True}}),
    "worker.sharedMemory": ({}, {"worker": {"sharedMemory": "64Mi"}}),
}


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The fields that hold values, as paths; a map or a list is one."""
    properties = schema.get("properties")
    if not properties:
        yield path
        return
    for name, inner in properties.items():
        yield from leaves(inner, f"{path}.{name}" if path else name)


def fields_of_spec() -> list[str]:
    crd = yaml.safe_load(CRD.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return sorted(leaves(schema["properties"]["spec"]))


def test_every_field_has_a_pair() -> None:
    assert fields_of_spec() == sorted(PAIRS)


@pytest.mark.parametrize("field", PAIRS)
def test_a_change_of_the_field_is_seen(field: str) -> None:
    one, other = PAIRS[field]
    assert effects(a_job().with_spec(**one)) != effects(a_job().with_spec(**other))


def effects(job: JobBuilder) -> list[Any]:
    """What is built for a job, what its head is told, and what follows two ways of ending."""
    facts = observed(
        prerequisites=Prerequisites(
            kuberay_served=True,
            config_maps=CONFIG_MAPS,
            claims={"runs": SHARED, "a": SHARED, "b": SHARED},
            largest_device_count=8,
        )
    )
    spec = DeepSpeedJobSpec.model_validate(job.spec)
    image = spec.image or DEFAULTS.trainer_image
    built = build_raycluster(job.build(), spec, "demo-1", image, injector=DEFAULTS.injector_image)
    job = job.with_status(decide(job, facts).status)
    name = cluster_name(job)
    up = observed(
        clusters=(a_cluster(name),),
        pods=ready_pods(name, spec.nodes),
        prerequisites=facts.prerequisites,
    )
    job = job.with_status(decide(job, up).status)
    told = decide(job, up).actions
    ends = [[built, told]]
    for state in (RunState.FAILED, RunState.SUCCEEDED):
        ended = with_run(job, up, state)
        after_end = job.with_status(decide(job, ended).status)
        later = [decide(after_end, ended, seconds) for seconds in (2, 30, 90)]
        ends.append([[plan.actions, plan.requeue_after_s, plan.sentence] for plan in later])
    return ends
