"""What the API server itself refuses: each rule with a pair of examples that differ in one field.

Real here: the API server and the CRD as generated.  The operator is not running.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.support.installed import ROOT
from tests.support.kube import Kube, Refused

CRD = ROOT / "crds" / "deepspeedjobs.dsjob.dev.yaml"
DATA = [{"name": "train", "format": "Json", "paths": ["/data"]}]
BASE: dict[str, Any] = {"nodes": 2, "entrypoint": {"script": "train.py"}}


@pytest.fixture(scope="module", autouse=True)
def crd(kube: Kube) -> dict[str, Any]:
    """The CRD, established."""
    found: dict[str, Any] = yaml.safe_load(CRD.read_text())
    kube.apply(found)
    kube.run("wait", "--for=condition=Established", f"crd/{found['metadata']['name']}")
    return found


@pytest.fixture(scope="module")
def home(kube: Kube) -> Iterator[str]:
    """One namespace for the jobs of this module."""
    with kube.namespace("api") as name:
        yield name


def a_job(spec: Mapping[str, Any], name: str = "job", namespace: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "dsjob.dev/v1alpha1",
        "kind": "DeepSpeedJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }


def try_to_create(kube: Kube, spec: Mapping[str, Any], name: str = "job") -> None:
    kube.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(a_job(spec, name)))


def with_git(**fields: Any) -> dict[str, Any]:
    git = {"url": "https://host.example/team/code.git", **fields}
    return {**BASE, "storage": {"volumeClaim": "runs"}, "code": {"git": git}}


def with_archive(**fields: Any) -> dict[str, Any]:
    archive = {"uri": "https://host.example/code.zip", "sha256": "0" * 64, **fields}
    return {**BASE, "storage": {"volumeClaim": "runs"}, "code": {"archive": archive}}


def with_resume(mode: str, source: str | None = None) -> dict[str, Any]:
    resume = {"mode": mode, **({"from": source} if source else {})}
    checkpoint = {"checkpoint": {"resume": resume}}
    return {**BASE, "storage": {"volumeClaim": "runs"}, **checkpoint}


# sentence: (accepted, refused, path in the server's message)
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "storage is a volume or a bucket": (
        {**BASE, "storage": {"uri": "s3://bucket/folder"}},
        {**BASE, "storage": {"uri": "s3://bucket/folder", "volumeClaim": "runs"}},
        "spec.storage",
    ),
    "a volume takes no credentials": (
        {**BASE, "storage": {"uri": "s3://bucket", "secretRef": {"name": "s3"}}},
        {**BASE, "storage": {"volumeClaim": "runs", "secretRef": {"name": "s3"}}},
        "spec.storage.secretRef",
    ),
    "a bucket's address holds no password": (
        {**BASE, "storage": {"uri": "abfs://container@account.dfs.core.windows.net/a"}},
        {**BASE, "storage": {"uri": "s3://key:secret@bucket/folder"}},
        "spec.storage.uri",
    ),
    "one entrypoint is needed": (
        {**BASE, "entrypoint": {"script": "train.py"}},
        {**BASE, "entrypoint": {}},
        "spec.entrypoint",
    ),
    "two entrypoints are one too many": (
        {**BASE, "entrypoint": {"function": "pkg.train:main"}},
        {**BASE, "entrypoint": {"function": "pkg.train:main", "script": "train.py"}},
        "spec.entrypoint",
    ),
    "config is for a function": (
        {**BASE, "entrypoint": {"function": "pkg.train:main", "config": {"lr": "0.1"}}},
        {**BASE, "entrypoint": {"script": "train.py", "config": {"lr": "0.1"}}},
        "spec.entrypoint.config",
    ),
    "args are for a script": (
        {**BASE, "entrypoint": {"script": "train.py", "args": ["--lr=0.1"]}},
        {**BASE, "entrypoint": {"function": "pkg.train:main", "args": ["--lr=0.1"]}},
        "spec.entrypoint.args",
    ),
    "a driver takes args": (
        {**BASE, "entrypoint": {"driver": "train.py", "args": ["--lr=0.1"]}},
        {**BASE, "entrypoint": {"command": ["./train.sh"], "args": ["--lr=0.1"]}},
        "spec.entrypoint.args",
    ),
    "a module is a name": (
        {**BASE, "entrypoint": {"module": "pkg.train"}},
        {**BASE, "entrypoint": {"module": "train.py/x"}},
        "spec.entrypoint.module",
    ),
    "a command has a word": (
        {**BASE, "entrypoint": {"command": ["./train.sh"]}},
        {**BASE, "entrypoint": {"command": []}},
        "spec.entrypoint.command",
    ),
    "only Python gets --local_rank": (
        {**BASE, "entrypoint": {"module": "train", "localRankArg": False}},
        {**BASE, "entrypoint": {"command": ["./train.sh"], "localRankArg": False}},
        "spec.entrypoint.localRankArg",
    ),
    "a function is distributed": (
        {**BASE, "entrypoint": {"driver": "train.py", "distributed": False}},
        {**BASE, "entrypoint": {"function": "a:b", "distributed": False}},
        "spec.entrypoint.distributed",
    ),
    "only a command is run per node": (
        {**BASE, "entrypoint": {"command": ["./train.sh"], "per": "Node"}},
        {**BASE, "entrypoint": {"script": "train.py", "per": "Node"}},
        "spec.entrypoint.per",
    ),
    "only a driver has a size of its own": (
        {**BASE, "entrypoint": {"driver": "train.py", "sizing": "Program"}},
        {**BASE, "entrypoint": {"script": "train.py", "sizing": "Program"}},
        "spec.entrypoint.sizing",
    ),
    "only a program of its own is sent a signal": (
        {**BASE, "preemption": {"signal": "SIGUSR1"}},
        {**BASE, "entrypoint": {"function": "a:b"}, "preemption": {"signal": "SIGUSR1"}},
        "spec.preemption.signal",
    ),
    "data are for functions": (
        {**BASE, "entrypoint": {"function": "a:b", "data": DATA}},
        {**BASE, "entrypoint": {"script": "train.py", "data": DATA}},
        "spec.entrypoint.data",
    ),
    "a data set has a name of its own": (
        {**BASE, "entrypoint": {"function": "a:b", "data": DATA}},
        {**BASE, "entrypoint": {"function": "a:b", "data": [*DATA, *DATA]}},
        "spec.entrypoint.data[1]",
    ),
    "a working directory is absolute": (
        {**BASE, "entrypoint": {"script": "train.py", "workingDir": "/app"}},
        {**BASE, "entrypoint": {"script": "train.py", "workingDir": "app"}},
        "spec.entrypoint.workingDir",
    ),
    "git is reached by https or ssh": (
        with_git(url="ssh://host.example:22/team/code.git"),
        with_git(url="http://host.example/team/code.git"),
        "spec.code.git.url",
    ),
    "git's short form has a long one": (
        with_git(url="ssh://host.example/team/code.git"),
        with_git(url="git@host.example:team/code.git"),
        "spec.code.git.url",
    ),
    "a repository's address holds no password": (
        with_git(),
        with_git(url="https://me:secret@host.example/team/code.git"),
        "spec.code.git.url",
    ),
    "a repository's address holds no user": (
        with_git(),
        with_git(url="ssh://git@host.example/team/code.git"),
        "spec.code.git.url",
    ),
    "a repository's address holds no query": (
        with_git(),
        with_git(url="https://host.example/code.git?token=secret"),
        "spec.code.git.url",
    ),
    "a repository's address holds no fragment": (
        with_git(),
        with_git(url="https://host.example/code.git#main"),
        "spec.code.git.url",
    ),
    "a repository's host is no option": (
        with_git(),
        with_git(url="ssh://-oProxyCommand=touch/code.git"),
        "spec.code.git.url",
    ),
    "a ref may be any name of git's": (
        with_git(ref="feature/v1.2_x@3+y#4"),
        with_git(ref="main^"),
        "spec.code.git.ref",
    ),
    "a ref is no option": (
        with_git(ref="main"),
        with_git(ref="--upload-pack=touch"),
        "spec.code.git.ref",
    ),
    "a ref is one name": (
        with_git(ref="main"),
        with_git(ref="main:refs/heads/other"),
        "spec.code.git.ref",
    ),
    "a ref is no range": (with_git(ref="v1.0"), with_git(ref="v1..v2"), "spec.code.git.ref"),
    "a folder of git's stays in it": (
        with_git(path="src/bert"),
        with_git(path="../bert"),
        "spec.code.git.path",
    ),
    "an archive lies in a bucket or on the web": (
        with_archive(uri="gs://bucket/code-1.0.tgz"),
        with_archive(uri="ftp://host.example/code.zip"),
        "spec.code.archive.uri",
    ),
    "an archive lies on the storage": (
        with_archive(uri="storage://bundles/code.zip"),
        with_archive(uri="storage://bundles/../code.zip"),
        "spec.code.archive.uri",
    ),
    "an archive on the storage takes no credentials": (
        with_archive(uri="storage://bundles/code.zip"),
        with_archive(uri="storage://bundles/code.zip", secretRef={"name": "s3"}),
        "spec.code.archive.secretRef",
    ),
    "an archive's address holds no signature": (
        with_archive(uri="https://host.example/code.zip"),
        with_archive(uri="https://host.example/code.zip?X-Amz-Signature=secret"),
        "spec.code.archive.uri",
    ),
    "an archive's address holds no password": (
        with_archive(uri="abfs://container@account.dfs.core.windows.net/code.zip"),
        with_archive(uri="https://me:secret@host.example/code.zip"),
        "spec.code.archive.uri",
    ),
    "a bucket's archive has no user": (
        with_archive(uri="s3://bucket/code.zip"),
        with_archive(uri="s3://key@bucket/code.zip"),
        "spec.code.archive.uri",
    ),
    "an archive's address is plain": (
        with_archive(uri="https://host.example/a%20b.zip"),
        with_archive(uri="https://host.example/a b.zip"),
        "spec.code.archive.uri",
    ),
    "an archive's checksum is one": (
        with_archive(),
        with_archive(sha256="0" * 63),
        "spec.code.archive.sha256",
    ),
    "an archive's folder stays in it": (
        with_archive(path="repo-1/src"),
        with_archive(path="/etc"),
        "spec.code.archive.path",
    ),
    "fetched code needs storage": (
        with_git(),
        {name: value for name, value in with_git().items() if name != "storage"},
        "spec.storage",
    ),
    "an archive needs storage": (
        with_archive(),
        {name: value for name, value in with_archive().items() if name != "storage"},
        "spec.storage",
    ),
    "code has one source, and git is one": (
        with_git(),
        {**with_git(), "code": {**with_git()["code"], "configMap": {"name": "code"}}},
        "spec.code",
    ),
    "code has one source": (
        {**BASE, "code": {"configMap": {"name": "code"}}},
        {**BASE, "code": {"configMap": {"name": "code"}, "volume": {"claim": "code"}}},
        "spec.code",
    ),
    "code stays in its volume": (
        {**BASE, "code": {"volume": {"claim": "code", "path": "team/src"}}},
        {**BASE, "code": {"volume": {"claim": "code", "path": "../src"}}},
        "spec.code.volume.path",
    ),
    "one DeepSpeed configuration": (
        {**BASE, "deepspeed": {"config": {"bf16": {"enabled": True}}}},
        {**BASE, "deepspeed": {"config": {}, "configMap": {"name": "ds"}}},
        "spec.deepspeed",
    ),
    "a CPU has no resource name": (
        {**BASE, "accelerator": {"type": "Nvidia", "resourceName": "nvidia.com/mig-1g.5gb"}},
        {**BASE, "accelerator": {"type": "CPU", "resourceName": "nvidia.com/gpu"}},
        "spec.accelerator.resourceName",
    ),
    "at least one node": ({**BASE, "nodes": 1}, {**BASE, "nodes": 0}, "spec.nodes"),
    "at least one rank a node": (
        {**BASE, "gpusPerNode": 1},
        {**BASE, "gpusPerNode": 0},
        "spec.gpusPerNode",
    ),
    "a known accelerator": (
        {**BASE, "accelerator": {"type": "CPU"}},
        {**BASE, "accelerator": {"type": "Abacus"}},
        "spec.accelerator.type",
    ),
    "a function that can be imported": (
        {**BASE, "entrypoint": {"function": "pkg.train:main"}},
        {**BASE, "entrypoint": {"function": "train.py"}},
        "spec.entrypoint.function",
    ),
    "a known resume mode": (
        {**BASE, "checkpoint": {"resume": {"mode": "Never"}}},
        {**BASE, "checkpoint": {"resume": {"mode": "Maybe"}}},
        "spec.checkpoint.resume.mode",
    ),
    "a source to begin from belongs to its mode": (
        with_resume("From", "team/bert/uid/run-1"),
        with_resume("Auto", "team/bert/uid/run-1"),
        "spec.checkpoint.resume.from",
    ),
    "the mode From has a source": (
        with_resume("From", "team/bert/uid/run-1/checkpoints/step-00000005-a1-1"),
        with_resume("From"),
        "spec.checkpoint.resume.from",
    ),
    "a source to begin from is a run's": (
        with_resume("From", "team/bert/uid/run-1"),
        with_resume("From", "team/bert/../run-1"),
        "spec.checkpoint.resume.from",
    ),
    "a source to begin from lies on the job's storage": (
        with_resume("From", "team/bert/uid/run-1"),
        {k: v for k, v in with_resume("From", "team/bert/uid/run-1").items() if k != "storage"},
        "spec.storage",
    ),
    "exported weights of a known type": (
        {**BASE, "checkpoint": {"export": {"safetensors": "Float16"}}},
        {**BASE, "checkpoint": {"export": {"safetensors": "Int4"}}},
        "spec.checkpoint.export.safetensors",
    ),
    "restarts are counted from zero": (
        {**BASE, "failurePolicy": {"maxRestarts": 0}},
        {**BASE, "failurePolicy": {"maxRestarts": -1}},
        "spec.failurePolicy.maxRestarts",
    ),
    "storage names its claim": (
        {**BASE, "storage": {"volumeClaim": "runs"}},
        {**BASE, "storage": {"volumeClaim": ""}},
        "spec.storage.volumeClaim",
    ),
}


# What is refused, and the words that say what to do instead.
SENTENCES: list[tuple[dict[str, Any], str]] = [
    (with_git(url="git@host.example:team/code.git"), "git@host:path is ssh://host/path"),
    (with_git(url="https://me:secret@host.example/code.git"), "put them into a Secret"),
    (with_git(url="ssh://git@host.example/code.git"), "the user of ssh is git"),
    (with_git(url="https://host.example/code.git?token=a"), "no query and no fragment"),
    (with_git(url="https://host.example/code.git#main"), "goes into ref"),
    (with_git(url="ssh://-oProxyCommand=a/code.git"), "a host, perhaps a port, and a path"),
    (with_git(ref="--upload-pack=touch"), "it cannot begin with '-'"),
    (with_git(ref="main:refs/heads/other"), "the name of one branch, tag or commit"),
    (with_archive(uri="https://me:secret@host.example/a.zip"), "put them into a Secret"),
    (with_archive(uri="s3://key@bucket/code.zip"), "put them into a Secret"),
    (with_archive(uri="abfs://a:secret@host.example/a.zip"), "put them into a Secret"),
    (with_archive(uri="https://host.example/a.zip?sig=a"), "no query, no signature"),
    (with_archive(uri="storage://bundles/../code.zip"), "no '.' and no '..'"),
]


@pytest.mark.parametrize(("spec", "words"), SENTENCES)
def test_an_address_is_refused_in_words_that_help(
    kube: Kube, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused) as refusal:
        try_to_create(kube, spec)
    assert words in str(refusal.value)


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.replace(" ", "_"))
def test_rule_accepts_one_and_refuses_the_other_by_its_field(kube: Kube, case: str) -> None:
    accepted, refused, path = PAIRS[case]
    try_to_create(kube, accepted)
    with pytest.raises(Refused) as refusal:
        try_to_create(kube, refused)
    assert f"{path}:" in str(refusal.value)


# field: (what it is at first, what it may not become, path in the server's message)
FROZEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nodes without storage": (BASE, {"nodes": 3}, "spec.nodes"),
    "gpusPerNode": ({**BASE, "gpusPerNode": 1}, {"gpusPerNode": 2}, "spec.gpusPerNode"),
    "accelerator": (BASE, {"accelerator": {"type": "CPU"}}, "spec.accelerator"),
    "image": ({**BASE, "image": "a:1"}, {"image": "a:2"}, "spec.image"),
    "no image": (BASE, {"image": "a:2"}, "spec.image"),
    "script": (BASE, {"entrypoint": {"script": "other.py"}}, "spec.entrypoint.script"),
    "script to function": (
        BASE,
        {"entrypoint": {"script": None, "function": "a:b"}},
        "spec.entrypoint.function",
    ),
    "function": (
        {**BASE, "entrypoint": {"function": "a:b"}},
        {"entrypoint": {"function": "a:c"}},
        "spec.entrypoint.function",
    ),
    "args": (BASE, {"entrypoint": {"args": ["--more"]}}, "spec.entrypoint.args"),
    "data": (
        {**BASE, "entrypoint": {"function": "a:b", "data": DATA}},
        {"entrypoint": {"data": [{**DATA[0], "paths": ["/other"]}]}},
        "spec.entrypoint.data",
    ),
    "module": (
        {**BASE, "entrypoint": {"module": "a"}},
        {"entrypoint": {"module": "b"}},
        "spec.entrypoint.module",
    ),
    "command": (
        {**BASE, "entrypoint": {"command": ["a"]}},
        {"entrypoint": {"command": ["b"]}},
        "spec.entrypoint.command",
    ),
    "driver": (
        {**BASE, "entrypoint": {"driver": "a.py"}},
        {"entrypoint": {"driver": "b.py"}},
        "spec.entrypoint.driver",
    ),
    "per": (
        {**BASE, "entrypoint": {"command": ["a"]}},
        {"entrypoint": {"per": "Node"}},
        "spec.entrypoint.per",
    ),
    "sizing": (
        {**BASE, "entrypoint": {"driver": "a.py"}},
        {"entrypoint": {"sizing": "Program"}},
        "spec.entrypoint.sizing",
    ),
    "localRankArg": (BASE, {"entrypoint": {"localRankArg": False}}, "spec.entrypoint.localRankArg"),
    "distributed": (BASE, {"entrypoint": {"distributed": False}}, "spec.entrypoint.distributed"),
    "workingDir": (
        {**BASE, "entrypoint": {"script": "train.py", "workingDir": "/a"}},
        {"entrypoint": {"workingDir": "/b"}},
        "spec.entrypoint.workingDir",
    ),
    "no workingDir": (BASE, {"entrypoint": {"workingDir": "/b"}}, "spec.entrypoint.workingDir"),
    "code": (
        {**BASE, "code": {"configMap": {"name": "a"}}},
        {"code": {"configMap": {"name": "b"}}},
        "spec.code",
    ),
    "no code": (BASE, {"code": {"configMap": {"name": "b"}}}, "spec.code"),
    "storage": (
        {**BASE, "storage": {"volumeClaim": "runs"}},
        {"storage": {"volumeClaim": "others"}},
        "spec.storage",
    ),
    "no storage": (BASE, {"storage": {"volumeClaim": "others"}}, "spec.storage"),
}


@pytest.mark.parametrize("case", FROZEN, ids=lambda case: case.replace(" ", "_"))
def test_field_is_fixed_at_creation(kube: Kube, home: str, case: str) -> None:
    first, change, path = FROZEN[case]
    name = f"fixed-{case.replace(' ', '-').lower()}"
    kube.apply(a_job(first, name, home))
    with pytest.raises(Refused) as refusal:
        kube.patch("deepspeedjob", name, {"spec": change}, home)
    assert "cannot be changed after creation" in str(refusal.value)
    assert f"{path}:" in str(refusal.value)


MUTABLE: dict[str, dict[str, Any]] = {
    "restarts": {"failurePolicy": {"maxRestarts": 9}},
    "time to live": {"ttlSecondsAfterFinished": 60},
    "resume mode": {"checkpoint": {"resume": {"mode": "Never"}}},
    "export": {"checkpoint": {"export": {"safetensors": "Float16"}}},
    "node selector": {"scheduling": {"nodeSelector": {"a": "b"}}},
    "worker memory": {"worker": {"resources": {"memory": "8Gi"}}},
}


def test_other_fields_can_change(kube: Kube, home: str) -> None:
    kube.apply(a_job(BASE, "mutable", home))
    for change in MUTABLE.values():
        kube.patch("deepspeedjob", "mutable", {"spec": change}, home)


def test_nodes_can_change_where_there_is_something_to_continue_from(kube: Kube, home: str) -> None:
    kube.apply(a_job({**BASE, "storage": {"volumeClaim": "runs"}}, "resized", home))
    kube.patch("deepspeedjob", "resized", {"spec": {"nodes": 3}}, home)


def test_name_that_is_no_label_is_refused(kube: Kube) -> None:
    try_to_create(kube, BASE, "j" * 63)
    with pytest.raises(Refused, match="at most 63 characters"):
        try_to_create(kube, BASE, "j" * 64)


def test_every_rule_of_the_crd_has_its_pair(crd: dict[str, Any]) -> None:
    """A rule without an example would be a rule that nobody has seen refuse."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    paths = {pair[2] for pair in (*PAIRS.values(), *FROZEN.values())}
    missing = [path for path, _ in cel_rules(schema["properties"]["spec"], "spec")]
    assert not {path for path in missing if path not in paths}


def cel_rules(node: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
    found = [
        (f"{path}{rule.get('fieldPath', '')}", rule["message"])
        for rule in node.get("x-kubernetes-validations", [])
    ]
    for name, child in node.get("properties", {}).items():
        found += cel_rules(child, f"{path}.{name}")
    return found


def test_defaults_are_those_of_the_types(kube: Kube, home: str) -> None:
    (stored,) = kube.apply(a_job(BASE, "defaults", home))
    spec = stored["spec"]
    assert (spec["gpusPerNode"], spec["accelerator"]["type"]) == (8, "Nvidia")
    assert spec["failurePolicy"] == {"maxRestarts": 3, "backoffSeconds": 10}
    assert spec["checkpoint"]["resume"]["mode"] == "Auto"


def test_same_manifest_again_changes_nothing(kube: Kube, home: str) -> None:
    job = a_job(BASE, "twice", home)
    (first,), (second,) = kube.apply(job), kube.apply(job)
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_columns_and_explanations_are_served(kube: Kube, home: str) -> None:
    kube.apply(a_job(BASE, "shown", home))
    header, row = kube.run("get", "dsj", "shown", "-n", home).splitlines()
    assert header.split() == "NAME PHASE NODES STEP OF LOSS RESTARTS AGE".split()
    assert row.split()[:2] == ["shown", "2"]
    assert "Worker nodes, one pod each" in kube.run("explain", "dsjob.spec.nodes")
