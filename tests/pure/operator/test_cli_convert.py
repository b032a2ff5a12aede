"""A launcher's command line and a RayJob as a job: what is carried over, guessed, and left out."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.cli.convert.draft import Draft
from deepspeed_operator.cli.convert.read import convert
from deepspeed_operator.cli.ends import WrongUse
from deepspeed_operator.cli.main import main

RAYJOB = Path(__file__).resolve().parents[2] / "data" / "rayjob.yaml"
CONFIG = {"zero_optimization": {"stage": 3}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a command line names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hosts").write_text("worker-1 slots=4\nworker-2 slots=4\n")
    (tmp_path / "ds.json").write_text(json.dumps(CONFIG))
    return tmp_path


def job_of(line: str, **more: Any) -> tuple[dict[str, Any], str]:
    """The spec of a command line, and its comments as one line."""
    text = convert(shlex.split(line), None, **{"name": None, "image": None, **more})
    return read(text)


def read(text: str) -> tuple[dict[str, Any], str]:
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("dsjob.dev/v1alpha1", "DeepSpeedJob")
    DeepSpeedJobSpec.model_validate(job["spec"])
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    return job["spec"], " ".join(comments)


@pytest.mark.parametrize(
    ("line", "nodes", "ranks", "entrypoint"),
    [
        (
            "deepspeed --hostfile hosts --include worker-2 --module pkg.train -v",
            1, 4, {"module": "pkg.train", "args": ["-v"]},
        ),
        ("deepspeed --num_gpus=3 train.py", 1, 3, {"script": "train.py"}),
        (
            "deepspeed --num_nodes 2 --num_gpus 8 --no_python --no_local_rank ./run.sh a",
            2, 8, {"command": ["./run.sh", "a"]},
        ),
        (
            "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d train.py --lr 1",
            2, 4, {"script": "train.py", "args": ["--lr", "1"], "localRankArg": False},
        ),
        (
            "python3 -m torch.distributed.run --nnodes 3 --nproc_per_node 2 -m pkg.train",
            3, 2, {"module": "pkg.train", "localRankArg": False},
        ),
        ("mpirun -np 16 -npernode 8 python train.py", 2, 8, {"command": ["python", "train.py"]}),
        (
            "accelerate launch --num_machines 2 --num-processes=8 train.py --x",
            2, 4,
            {"command": "accelerate launch --num_machines 2 --num-processes=8 train.py --x".split(),
             "per": "Node"},
        ),
    ],
)  # fmt: skip
def test_a_launchers_words_become_a_job(
    line: str, nodes: int, ranks: int, entrypoint: dict[str, Any]
) -> None:
    spec, comments = job_of(line)
    assert (spec["nodes"], spec["gpusPerNode"], spec["entrypoint"]) == (nodes, ranks, entrypoint)
    assert "a guess" not in comments
    assert ("storage" in spec) is (nodes > 1)


def test_the_configuration_goes_into_the_job_and_its_flag_out_of_the_words() -> None:
    for flag in ("--deepspeed_config ds.json", "--deepspeed_config=ds.json"):
        spec, comments = job_of(f"deepspeed --num_gpus 2 train.py --deepspeed {flag} --lr 1")
        assert spec["deepspeed"]["config"] == CONFIG
        assert spec["entrypoint"]["args"] == ["--deepspeed", "--lr", "1"]
        assert "--deepspeed_config stays" not in comments


def test_a_configuration_that_is_not_here_stays_a_word() -> None:
    spec, comments = job_of("deepspeed --num_gpus 2 train.py --deepspeed_config absent.json")
    assert spec["entrypoint"]["args"] == ["--deepspeed_config", "absent.json"]
    assert "absent.json is not here" in comments


def test_variables_go_with_the_job(here: Path) -> None:
    (here / ".deepspeed_env").write_text("FROM_FILE=1\nMASTER_PORT=1\n")
    spec, comments = job_of("FROM_LINE=2 deepspeed --num_gpus 2 train.py")
    assert spec["deepspeed"]["env"] == {"FROM_FILE": "1", "FROM_LINE": "2"}
    assert "MASTER_PORT is left out" in comments
    spec, comments = job_of("mpirun -np 2 -npernode 2 -x A=1 -x HERE ./train")
    assert spec["deepspeed"]["env"] == {"A": "1"}
    assert "give HERE the value that -x HERE passed on" in comments


def test_what_is_guessed_and_what_is_left_to_the_job_is_said() -> None:
    _, comments = job_of(
        "deepspeed --hostfile absent --master_port 1 --bind_core_list 0-3 train.py"
    )
    assert "the hostfile absent is not here" in comments
    assert "spec.gpusPerNode: a guess" in comments
    assert "left to the job: --master_port" in comments
    assert "cores 0-3 are not named" in comments
    spec, comments = job_of("torchrun train.py")
    assert (spec["nodes"], spec["gpusPerNode"]) == (1, 8)
    assert "spec.nodes: a guess" in comments


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("./train.sh --x", "calls none of deepspeed, torchrun, mpirun, accelerate"),
        ("accelerate config", "calls none of"),
        (
            "deepspeed --autotuning run train.py",
            "deepspeed --autotuning: its trials start over SSH",
        ),
        ("torchrun --nnodes=1:4 train.py", "a job has one size"),
        ("deepspeed --bogus train.py", "deepspeed: "),
        ("deepspeed --num_nodes 2000 train.py", "spec.nodes: "),
    ],
)
def test_what_cannot_be_a_job_is_refused_with_the_reason(line: str, says: str) -> None:
    with pytest.raises(WrongUse, match=says.replace(".", r"\.")):
        job_of(line)


def test_a_rayjob_becomes_a_job_and_what_is_left_is_named() -> None:
    text = convert((), str(RAYJOB), name=None, image=None)
    spec, comments = read(text)
    assert yaml.safe_load(text)["metadata"] == {"name": "bert", "namespace": "team"}
    assert spec == {
        "entrypoint": {"driver": "train_bert.py", "args": ["--lr", "3e-4"]},
        "failurePolicy": {"maxRestarts": 2},
        "ttlSecondsAfterFinished": 600,
        "deepspeed": {"env": {"NCCL_DEBUG": "INFO", "HF_HOME": "/data/hf"}},
        "nodes": 4,
        "image": "registry.example/bert:1",
        "imagePullPolicy": "IfNotPresent",
        "gpusPerNode": 8,
        "worker": {"resources": {"cpu": 64, "memory": "512Gi"}, "sharedMemory": "64Gi"},
        "scheduling": {"nodeSelector": {"gpu": "a100"}},
        "storage": {"volumeClaim": "runs"},
        "code": {"configMap": {"name": "bert-code"}},
        "head": {"resources": {"cpu": 2, "memory": "8Gi"}},
    }
    for told in (
        "RANK is left out",
        "runtimeEnvYAML brought pip: build it in",
        "what lay at /data is at /mnt/dsjob: change paths",
        "spec.activeDeadlineSeconds: not carried over",
        "spec.rayClusterSpec.headGroupSpec.rayStartParams.dashboard-host: not carried over",
        "workerGroupSpecs[0].template.spec.tolerations[0].key: not carried over",
        "containers[0].env[TOKEN].valueFrom.secretKeyRef.name: not carried over",
    ):
        assert told in comments, comments
    assert "what lay at /dev/shm" not in comments
    assert comments.count("not carried over") == 6, "all that has a field was taken"


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> str:
    found = yaml.safe_load(RAYJOB.read_text())
    edit(found["spec"])
    path.write_text(yaml.safe_dump(found))
    return str(path)


def test_a_rayjob_that_calls_a_launcher_keeps_its_cluster(here: Path) -> None:
    line = "deepspeed --num_gpus 2 train.py"
    file = change(here / "job.yaml", lambda spec: spec.update(entrypoint=line))
    spec, comments = read(convert((), file, name="other", image="image:2"))
    assert "a guess" not in comments
    assert (spec["nodes"], spec["gpusPerNode"], spec["image"]) == (4, 8, "image:2")
    assert spec["entrypoint"] == {"script": "train.py"}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda spec: spec.pop("entrypoint"), "nothing to run"),
        (
            lambda spec: spec.update(entrypoint="bash run.sh"),
            "neither `python FILE` nor a launcher",
        ),
        (lambda spec: spec.update(entrypoint="python 'x"), "No closing quotation"),
        (lambda spec: spec["rayClusterSpec"].pop("workerGroupSpecs"), "no group of workers"),
        (lambda spec: spec.update(runtimeEnvYAML="a: ]"), "no YAML"),
        (lambda spec: spec.update(backoffLimit="many"), "spec.failurePolicy.maxRestarts"),
    ],
)
def test_a_rayjob_that_cannot_be_read_is_refused(
    here: Path, edit: Callable[[dict[str, Any]], None], says: str
) -> None:
    file = change(here / "job.yaml", edit)
    with pytest.raises(WrongUse, match=says):
        convert((), file, name=None, image=None)


def test_a_manifest_of_another_kind_is_refused(here: Path) -> None:
    (here / "pod.yaml").write_text("{apiVersion: v1, kind: Pod, metadata: {name: a}}")
    with pytest.raises(WrongUse, match="one RayJob is needed, found Pod"):
        convert((), "pod.yaml", name=None, image=None)


def test_nothing_slips_out_of_a_comment() -> None:
    draft = Draft("a", {"nodes": 1, "entrypoint": {"script": "a.py"}})
    draft.note("spec", "one\nkind: Secret\r\nmore")
    text = draft.render("x\ny: 1")
    assert yaml.safe_load(text)["kind"] == "DeepSpeedJob"
    assert "\nkind: Secret" not in text
    assert "\ny: 1" not in text


def test_the_verb_takes_a_line_or_a_file(here: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(
        main, ["convert", "--name", "b", "--", "deepspeed", "--num_gpus", "2", "a.py"]
    )
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout)["metadata"]["name"] == "b"
    for words in (["convert"], ["convert", "-f", str(RAYJOB), "--", "deepspeed", "a.py"]):
        refused = runner.invoke(main, words)
        assert refused.exit_code == 2
        assert "give either" in refused.output
