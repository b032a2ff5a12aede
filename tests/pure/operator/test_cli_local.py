"""Local runs before any process: checks without an API server, the contract, the state shown."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deepspeed_operator.cli import main
from deepspeed_operator.cli.ends import Exit, Refused, Unavailable, WrongUse
from deepspeed_operator.cli.local import interpreter
from deepspeed_operator.cli.local.checks import check_job
from deepspeed_operator.cli.local.plan import Plan, Wishes, plan_run, refuse_missing_devices
from deepspeed_operator.cli.local.state import Seen, Stage, derive_job
from deepspeed_operator.cli.manifests import read_objects
from deepspeed_operator.cli.picture import describe, failure_lines, is_true
from deepspeed_trainer.contract import Cause, Failure, Progress, RunContract, RunPhase
from tests.cluster.test_api import PAIRS

ROOT = Path(__file__).resolve().parents[3]
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "nodes": 2,
    "gpusPerNode": 1,
    "accelerator": {"type": "CPU"},
    "entrypoint": {"script": "train.py"},
    "storage": {"volumeClaim": "runs"},
}


def a_job(name: str = "bert", **spec: Any) -> dict[str, Any]:
    found = {"apiVersion": "dsjob.dev/v1alpha1", "kind": "DeepSpeedJob"}
    wanted = {key: value for key, value in {**SPEC, **spec}.items() if value is not None}
    return {**found, "metadata": {"name": name}, "spec": wanted}


def no_note(sentence: str) -> None:
    raise AssertionError(sentence)


def causes_of(job: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Refused) as refusal:
        check_job(job, no_note)
    return dict(refusal.value.causes)


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.replace(" ", "_"))
def test_rules_hold_here_as_in_the_api_server(case: str) -> None:
    accepted, refused, path = PAIRS[case]
    check_job({**a_job(), "spec": accepted}, no_note)
    assert path in causes_of({**a_job(), "spec": refused})


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("job*.yaml")), ids=str)
def test_every_example_passes(path: Path) -> None:
    for found in read_objects([str(path)]):
        if found["kind"] == "DeepSpeedJob":
            check_job(found, no_note)


def test_a_misspelt_field_is_named_with_the_right_one() -> None:
    assert "did you mean 'gpusPerNode'" in causes_of(a_job(gpusPerNod=1))["spec.gpusPerNod"]
    inner = causes_of(a_job(worker={"resources": {"memroy": "1Gi"}}))
    assert "did you mean 'memory'" in inner["spec.worker.resources.memroy"]


def test_what_the_api_server_keeps_as_it_is_may_hold_anything() -> None:
    check_job(a_job(deepspeed={"config": {"my_own": {"any": [1.5, None]}}}), no_note)


def test_no_text_passes_for_a_number() -> None:
    assert "spec.nodes" in causes_of(a_job(nodes="2"))


def test_a_long_name_is_refused_by_the_rule_of_the_crd() -> None:
    with pytest.raises(Refused) as refusal:
        check_job(a_job("x" * 64), no_note)
    assert any("63 characters" in message for _, message in refusal.value.causes)


@pytest.mark.parametrize("name", ["Bert", "bert_1", "-bert", "../bert"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert "metadata.name" in causes_of(a_job(name))


def test_another_version_is_wrong_use() -> None:
    with pytest.raises(WrongUse, match="v1alpha1"):
        check_job({**a_job(), "apiVersion": "dsjob.dev/v9"}, no_note)


def test_a_rule_that_cannot_be_checked_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    def fail(*_: object) -> bool:
        raise RuntimeError("no such function")

    monkeypatch.setattr("deepspeed_operator.cli.local.checks.cel.evaluate", fail)
    check_job(a_job(), notes.append)
    assert any("not checked here" in note for note in notes)


def plan(job: dict[str, Any], *others: dict[str, Any], storage: Path, **wishes: Any) -> Plan:
    found = Wishes(storage=storage, **wishes)
    return plan_run([job, *others], found, no_note, now=NOON, cores=8)


def test_the_contract_is_the_operators_with_a_folder_for_storage(tmp_path: Path) -> None:
    config = {"train_micro_batch_size_per_gpu": 4}
    order = plan(a_job(deepspeed={"config": config}), storage=tmp_path / "s").contract
    assert RunContract.from_json(order.to_json()) == order
    assert (order.world_size, order.nodes, order.backend) == (2, 2, "gloo")
    assert order.deepspeed_config == config
    assert order.storage == str(tmp_path / "s")
    assert order.cpus_per_rank == 4, "ranks share the cores of this machine"


def test_the_configuration_comes_from_a_config_map_of_the_same_files(tmp_path: Path) -> None:
    job = a_job(deepspeed={"configMap": {"name": "ds", "key": "a.json"}})
    meta = {"name": "ds"}
    data = {"a.json": json.dumps({"bf16": {"enabled": True}})}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    found = plan(job, config_map, storage=tmp_path).contract.deepspeed_config
    assert found == {"bf16": {"enabled": True}}
    with pytest.raises(Refused, match=r"has no key 'a.json'"):
        plan(job, {**config_map, "data": {"b.json": "{}"}}, storage=tmp_path)
    elsewhere = {**config_map, "metadata": {"name": "ds", "namespace": "other"}}
    for objects in ([], [elsewhere]):
        with pytest.raises(WrongUse, match="ConfigMap 'ds', which is in none of the given files"):
            plan(job, *objects, storage=tmp_path)


def test_code_and_environment_come_from_config_maps_of_the_files(tmp_path: Path) -> None:
    source = {"configMap": {"name": "env"}}
    job = a_job(code={"configMap": {"name": "code"}}, deepspeed={"envFile": source})
    data = {"code": {"train.py": "print(1)"}, "env": {".deepspeed_env": "A=1\n"}}
    maps = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": found}
        for name, found in data.items()
    ]
    found = plan(job, *maps, storage=tmp_path)
    assert found.code == data["code"]
    assert found.contract.env == {"A": "1"}
    assert plan(job, maps[1], storage=tmp_path).code is None, "the program is in the workdir"
    with pytest.raises(WrongUse, match="ConfigMap 'env'"):
        plan(job, maps[0], storage=tmp_path)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"storage": None}, "StorageMissing"),
        ({"deepspeed": {"config": {"amp": {}}}}, "DeepSpeedConfigInvalid"),
        ({"worker": {"sharedMemory": "99Gi"}}, "InvalidSpec"),
    ],
)
def test_what_would_wait_on_a_cluster_is_refused_here(
    tmp_path: Path, spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        plan(a_job(**spec), storage=tmp_path)


def test_a_claim_for_one_node_is_refused_when_the_files_hold_it(tmp_path: Path) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "runs"},
        "spec": {"accessModes": ["ReadWriteOnce"]},
    }
    with pytest.raises(Refused, match="ClaimNotShared"):
        plan(a_job(), claim, storage=tmp_path)


def test_each_local_run_is_a_new_one_unless_it_continues(tmp_path: Path) -> None:
    first = plan(a_job(), storage=tmp_path)
    first.folder.mkdir(parents=True)
    second = plan(a_job(), storage=tmp_path)
    assert first.contract.job.uid != second.contract.job.uid
    assert (first.attempt.number, second.attempt.number) == (1, 1)
    third = plan(a_job(), storage=tmp_path, resume=True)
    assert third.contract.job == first.contract.job
    assert third.attempt.number == third.contract.attempt == 2


def test_nothing_to_continue_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no run of 'bert'"):
        plan(a_job(), storage=tmp_path, resume=True)


def test_a_job_for_gpus_says_how_to_try_it_without(tmp_path: Path) -> None:
    job = a_job(accelerator={"type": "Nvidia"}, gpusPerNode=4)
    found = plan(job, storage=tmp_path)
    assert (found.contract.gpus_per_rank, found.contract.backend) == (1, "nccl")
    refuse_missing_devices(found.view.spec, 8)
    with pytest.raises(Unavailable, match=r"8 Nvidia devices .* has 1: add --accelerator CPU"):
        refuse_missing_devices(found.view.spec, 1)
    on_cpu = plan(job, storage=tmp_path, accelerator="CPU")
    assert (on_cpu.contract.gpus_per_rank, on_cpu.contract.backend) == (0, "gloo")
    refuse_missing_devices(on_cpu.view.spec, 0)


def test_the_state_of_a_local_run_is_shown_like_a_job_in_a_cluster(tmp_path: Path) -> None:
    found = plan(a_job(), storage=tmp_path)
    base = {"submission_id": found.contract.submission_id, "attempt": 1}
    running = Progress(**base, phase=RunPhase.RUNNING, step=3, total_steps=9, loss="0.5")
    lines = [
        describe(derive_job(found, seen, NOON))
        for seen in (
            Seen(Stage.RAY),
            Seen(Stage.DRIVER),
            Seen(Stage.DRIVER, running),
            Seen(Stage.OVER, running, exit_code=0),
        )
    ]
    assert [line.split()[0] for line in lines] == ["Starting", "Starting", "Running", "Succeeded"]
    assert "a private Ray starts" in lines[0]
    assert "step 3/9  loss 0.5" in lines[2]


def test_a_failed_rank_is_shown_with_its_last_lines(tmp_path: Path) -> None:
    found = plan(a_job(), storage=tmp_path)
    failure = Failure(Cause.USER_ERROR, "it raised", rank=1, exit_code=1, log_tail=("boom",))
    progress = Progress(
        submission_id="x", attempt=1, phase=RunPhase.FAILED, step=2, failure=failure
    )
    job = derive_job(found, Seen(Stage.OVER, progress, exit_code=10), NOON)
    assert is_true(job, "Failed")
    assert is_true(job, "Finished")
    assert failure_lines(job)[0] == "UserError: it raised"
    assert "boom" in failure_lines(job)[-1]
    assert job["status"]["attempts"][0]["state"] == "Failed"


@pytest.mark.parametrize(
    "seen",
    [Seen(Stage.OVER, exit_code=14), Seen(Stage.OVER, trouble="Ray's head did not start: why")],
)
def test_a_run_without_progress_fails_in_words(tmp_path: Path, seen: Seen) -> None:
    job = derive_job(plan(a_job(), storage=tmp_path), seen, NOON)
    assert is_true(job, "Failed")
    assert (seen.trouble or "exit code 14") in failure_lines(job)[0]


def a_python(folder: Path, answer: dict[str, Any] | None) -> str:
    path = folder / "python"
    said = "exit 1" if answer is None else f"echo '{json.dumps(answer)}'"
    path.write_text(f"#!/bin/sh\n{said}\n")
    path.chmod(0o755)
    return str(path)


WHOLE = {"missing": [], "python": [3, 11], "ray": "2.60.0", "devices": 2}


def test_a_python_with_everything_is_taken(tmp_path: Path) -> None:
    found = interpreter.find_interpreter(a_python(tmp_path, WHOLE), with_devices=True)
    assert (found.devices, found.notice) == (2, None)


def test_another_ray_is_noticed(tmp_path: Path) -> None:
    python = a_python(tmp_path, {**WHOLE, "ray": "2.1.0"})
    found = interpreter.find_interpreter(python, with_devices=False)
    assert "2.1.0" in str(found.notice)


def test_missing_packages_are_named_with_the_fix(tmp_path: Path) -> None:
    python = a_python(tmp_path, {**WHOLE, "missing": ["ray", "torch"]})
    with pytest.raises(Unavailable, match=r"lacks ray, torch.*--python PATH.*pip install"):
        interpreter.find_interpreter(python, with_devices=False)


def test_what_is_no_python_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="is no Python"):
        interpreter.find_interpreter(a_python(tmp_path, None), with_devices=False)


def test_the_probe_runs_on_a_real_python_and_names_what_it_lacks() -> None:
    probed = interpreter._probe(sys.executable, with_devices=False)
    assert probed is not None
    assert "typing_extensions" not in probed["missing"]


def type_in(*words: str, given: dict[str, Any]) -> Any:
    text = yaml.safe_dump(given)
    return CliRunner().invoke(main.main, ["run", "-f", "-", *words], input=text, prog_name="dsjob")


def test_run_is_local_alone() -> None:
    result = type_in(given=a_job())
    assert result.exit_code == Exit.WRONG_USE
    assert "dsjob submit" in result.stderr


def test_a_refused_job_lists_its_fields_and_exits_with_1(tmp_path: Path) -> None:
    result = type_in("--local", "--storage", str(tmp_path), given=a_job(nodes=0, nodez=1))
    assert result.exit_code == Exit.FAILED
    assert "spec.nodes:" in result.stderr
    assert "spec.nodez:" in result.stderr
