"""What a job needs before it may have pods: missing, it waits with a reason; found, it starts."""

from dataclasses import replace

import pytest

from deepspeed_operator.api.names import Reason
from deepspeed_operator.decide.observed import ClaimFacts
from tests.support.builders import MET, a_job, observed
from tests.support.passes import condition, decide, status_of

UNMET = {
    "KubeRay is not installed": (
        a_job(),
        replace(MET, kuberay_served=False),
        Reason.KUBERAY_MISSING,
    ),
    "two nodes share no storage": (a_job().without("storage"), MET, Reason.STORAGE_MISSING),
    "the claim does not exist": (
        a_job(),
        replace(MET, claims={"runs": None}),
        Reason.CLAIM_MISSING,
    ),
    "the claim is for one node": (
        a_job(),
        replace(MET, claims={"runs": ClaimFacts(("ReadWriteOnce",), "Bound")}),
        Reason.CLAIM_NOT_SHARED,
    ),
    "the ConfigMap does not exist": (
        a_job().with_spec(deepspeed={"configMap": {"name": "ds"}}),
        MET,
        Reason.CONFIG_MAP_MISSING,
    ),
    "the ConfigMap has no such key": (
        a_job().with_spec(deepspeed={"configMap": {"name": "ds"}}),
        replace(MET, config_maps={"ds": {"other": "{}"}}),
        Reason.CONFIG_MAP_MISSING,
    ),
    "the ConfigMap holds no JSON": (
        a_job().with_spec(deepspeed={"configMap": {"name": "ds"}}),
        replace(MET, config_maps={"ds": {"ds_config.json": "{"}}),
        Reason.DEEPSPEED_CONFIG_INVALID,
    ),
    "a file of variables that does not exist": (
        a_job().with_spec(deepspeed={"envFile": {"configMap": {"name": "env"}}}),
        replace(MET, config_maps={"env": None}),
        Reason.CONFIG_MAP_MISSING,
    ),
    "a line that sets nothing": (
        a_job().with_spec(deepspeed={"envFile": {"configMap": {"name": "env"}}}),
        replace(MET, config_maps={"env": {".deepspeed_env": "NCCL_DEBUG=INFO\nexport X"}}),
        Reason.ENVIRONMENT_INVALID,
    ),
    "a variable that is the trainer's": (
        a_job().with_spec(deepspeed={"env": {"RANK": "0"}}),
        MET,
        Reason.ENVIRONMENT_INVALID,
    ),
    "code in a ConfigMap that does not exist": (
        a_job().with_spec(code={"configMap": {"name": "code"}}),
        replace(MET, config_maps={"code": None}),
        Reason.CONFIG_MAP_MISSING,
    ),
    "code in a claim that does not exist": (
        a_job().with_spec(code={"volume": {"claim": "code"}}),
        MET,
        Reason.CLAIM_MISSING,
    ),
    "code in a claim of one node": (
        a_job().with_spec(code={"volume": {"claim": "code"}}),
        replace(MET, claims={**MET.claims, "code": ClaimFacts(("ReadWriteOnce",), "Bound")}),
        Reason.CLAIM_NOT_SHARED,
    ),
    "no node has enough devices": (
        a_job().with_spec(accelerator={"type": "Nvidia"}, gpusPerNode=8),
        replace(MET, largest_device_count=4),
        Reason.ACCELERATOR_MISSING,
    ),
    "a quantity is none": (
        a_job().with_spec(worker={"resources": {"memory": "lots"}}),
        MET,
        Reason.INVALID_SPEC,
    ),
}


@pytest.mark.parametrize("case", UNMET, ids=lambda case: case.replace(" ", "_"))
def test_what_is_missing_holds_the_job_with_a_reason_and_no_pods(case: str) -> None:
    job, answers, reason = UNMET[case]
    plan = decide(job, observed(prerequisites=answers))
    assert plan.actions == ()
    assert condition(status_of(plan), "Ready") == ("False", reason)
    assert plan.requeue_after_s is not None
    again = decide(job.with_status(plan.status), observed(prerequisites=answers), 5)
    assert again.status is None
    assert again.events == ()


def test_job_starts_by_itself_when_what_was_missing_appears() -> None:
    job = a_job()
    missing = replace(MET, claims={"runs": None})
    job = job.with_status(decide(job, observed(prerequisites=missing)).status)
    assert [a.state for a in status_of(decide(job, observed(), 5)).attempts] == ["Opened"]


DEEPSPEED_FAULTS = {
    "a removed key": {"elasticity": {}},
    "a misspelt key": {"zero_optimisation": {"stage": 3}},
    "fp16 on CPU": {"fp16": {"enabled": True}},
    "a batch that does not add up": {
        "train_batch_size": 10,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
    },
}


@pytest.mark.parametrize("case", DEEPSPEED_FAULTS, ids=lambda case: case.replace(" ", "_"))
def test_bad_deepspeed_config_is_refused_before_pods(case: str) -> None:
    job = a_job().with_spec(deepspeed={"config": DEEPSPEED_FAULTS[case]})
    plan = decide(job, observed())
    assert condition(status_of(plan), "Ready") == ("False", Reason.DEEPSPEED_CONFIG_INVALID)


def test_good_deepspeed_config_passes() -> None:
    config = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "bf16": {"enabled": True},
        "my_own_key": 1,
    }
    plan = decide(a_job().with_spec(deepspeed={"config": config}), observed())
    assert [a.state for a in status_of(plan).attempts] == ["Opened"]
