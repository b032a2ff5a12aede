"""The contract refuses what it does not know, by the field's name."""

import json
from typing import Any

import pytest

from deepspeed_trainer import contract
from deepspeed_trainer.contract import (
    Cause,
    ContractError,
    DataSource,
    Entrypoint,
    EntrypointKind,
    RunContract,
)
from tests.pure.deepspeed_trainer.makers import a_contract

A_FUNCTION = a_contract(
    entrypoint=Entrypoint(
        EntrypointKind.FUNCTION, "train:main", data=(DataSource("train", "Json", ("/data",)),)
    )
)


def test_a_contract_survives_the_wire() -> None:
    given = a_contract()
    assert RunContract.from_json(given.to_json()) == given


def test_what_may_be_absent_survives_the_wire() -> None:
    given = a_contract(deepspeed_config=None, storage=None, env={})
    assert RunContract.from_json(given.to_json()) == given


def test_the_data_of_a_function_survives_the_wire() -> None:
    assert RunContract.from_json(A_FUNCTION.to_json()) == A_FUNCTION


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"format": "Pickle"}, r"contract\.entrypoint\.data\[0\]\.format"),
        ({"paths": "/data"}, r"contract\.entrypoint\.data\[0\]\.paths"),
        ({"split": True}, r"contract\.entrypoint\.data\[0\]\.split"),
    ],
)
def test_data_that_cannot_be_read_is_refused(changes: dict[str, Any], wanted: str) -> None:
    plain = json.loads(A_FUNCTION.to_json())
    plain["entrypoint"]["data"][0] |= changes
    with pytest.raises(ContractError, match=wanted):
        RunContract.from_json(json.dumps(plain))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"version": 2}, "contract.version is 2"),
    "a version that only looks right": ({"version": True}, "contract.version"),
    "an unknown field": ({"surprise": 1}, "contract.surprise"),
    "a number as text": ({"nodes": "2"}, "contract.nodes"),
    "no nodes": ({"nodes": 0}, "contract.nodes"),
    "true for a number": ({"attempt": True}, "contract.attempt"),
    "an unknown accelerator": ({"accelerator": "tpu"}, "contract.accelerator"),
    "two devices for a rank": ({"gpus_per_rank": 2}, "contract.gpus_per_rank"),
    "a storage that is not absolute": ({"storage": "data"}, "contract.storage"),
    "a run that leaves its folder": ({"run": "../other"}, "contract.run"),
    "a job name that leaves its folder": (
        {"job": {"namespace": "a", "name": "../b", "uid": "u"}},
        "contract.job.name",
    ),
    "an unknown entrypoint": (
        {"entrypoint": {"kind": "shell", "target": "x", "args": [], "config": {}}},
        "contract.entrypoint.kind",
    ),
    "a function without a module": (
        {"entrypoint": {"kind": "function", "target": "train", "args": [], "config": {}}},
        "contract.entrypoint.target",
    ),
    "a variable with a bad name": ({"env": {"A B": "1"}}, "contract.env"),
    "a variable that is no text": ({"env": {"A": 1}}, "contract.env"),
    "an unknown resume mode": ({"resume": "Sometimes"}, "contract.resume"),
    "no floor for a hang": (
        {"hang": {"enabled": True, "min_s": 0, "factor": 5, "start_deadline_s": 1}},
        "contract.hang.min_s",
    ),
    "a limit shorter than what was seen": (
        {"hang": {"enabled": True, "min_s": 1, "factor": 1, "start_deadline_s": 1}},
        "contract.hang.factor",
    ),
    "a hang's field that is not known": (
        {"hang": {"enabled": True, "min_s": 1, "factor": 2, "start_deadline_s": 1, "max_s": 1}},
        "contract.hang.max_s",
    ),
    "a source that leads out of the storage": (
        {"resume_from": "a/b/c/../d"},
        "contract.resume_from",
    ),
    "a submission id with a slash": ({"submission_id": "a/b"}, "contract.submission_id"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_contract_refuses(case: str) -> None:
    changes, wanted = REFUSED[case]
    plain = json.loads(a_contract().to_json()) | changes
    with pytest.raises(ContractError, match=wanted.replace(".", r"\.")):
        RunContract.from_json(json.dumps(plain))


def test_every_missing_field_is_named() -> None:
    plain = json.loads(a_contract().to_json())
    optional = {"deepspeed_config", "export", "resume_from", "storage"}
    for name in plain.keys() - optional:
        rest = {key: value for key, value in plain.items() if key != name}
        with pytest.raises(ContractError, match=rf"contract\.{name}"):
            RunContract.from_json(json.dumps(rest))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"x"'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="contract"):
        RunContract.from_json(text)


def test_a_run_lies_below_namespace_name_and_uid() -> None:
    job = a_contract().job
    assert contract.run_dir("/mnt/dsjob/", job, "run-1") == "/mnt/dsjob/team/bert/uid-1/run-1"
    assert contract.checkpoint_dir("/s", job, "run-1", 2) == (
        "/s/team/bert/uid-1/run-1/attempt-2/checkpoints"
    )


def test_every_cause_has_an_exit_code_that_is_not_success() -> None:
    assert all(0 < contract.derive_exit_code(cause) < 126 for cause in Cause)
