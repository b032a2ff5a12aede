"""What people type and write: manifests, options, exit codes, and following a job to its end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deepspeed_operator.cli import follow, main, manifests
from deepspeed_operator.cli.ends import (
    CliError,
    Denied,
    Exit,
    NotThere,
    Refused,
    TooLate,
    Unavailable,
    WrongUse,
)
from deepspeed_operator.cli.submit import describe_refusal, refuse_other_namespace

JOB = "apiVersion: dsjob.dev/v1alpha1\nkind: DeepSpeedJob\nmetadata: {name: bert}\nspec: {}\n"


def type_in(*words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main.main, list(words), input=given, prog_name="dsjob")


def test_several_documents_and_lists_are_read_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    claim = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: runs}}"
    file.write_text(f"{claim}\n---\n# nothing\n---\n{JOB}---\n"
                    f"{{apiVersion: v1, kind: List, items: [{claim}]}}")  # fmt: skip
    found = manifests.read_objects([str(file)])
    assert [each["kind"] for each in found] == [
        "PersistentVolumeClaim", "DeepSpeedJob", "PersistentVolumeClaim",
    ]  # fmt: skip
    assert manifests.only_job(found)["metadata"]["name"] == "bert"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no object"),
        ("a: [", "is no YAML"),
        ("- 1", "a Kubernetes object is a map"),
        ("kind: DeepSpeedJob", "document 1: apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod", "metadata.name is missing"),
    ],
)
def test_a_bad_manifest_is_wrong_use_and_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    result = type_in("submit", "-f", str(file))
    assert result.exit_code == Exit.WRONG_USE
    assert said in result.stderr
    assert str(file) in result.stderr


def test_a_missing_file_is_wrong_use() -> None:
    result = type_in("submit", "-f", "/no/such/file.yaml")
    assert result.exit_code == Exit.WRONG_USE
    assert "/no/such/file.yaml cannot be read" in result.stderr


def test_watching_needs_one_job() -> None:
    result = type_in("submit", "--watch", "-f", "-", given=f"{JOB}---\n{JOB}")
    assert result.exit_code == Exit.WRONG_USE
    assert "several DeepSpeedJobs (bert, bert)" in result.stderr


def test_a_namespace_that_contradicts_the_manifest_is_wrong_use() -> None:
    job = {"kind": "DeepSpeedJob", "metadata": {"name": "bert", "namespace": "a"}}
    refuse_other_namespace([job], "a")
    refuse_other_namespace([job], None)
    with pytest.raises(WrongUse, match="says namespace 'a'"):
        refuse_other_namespace([job], "b")


def test_a_kubeconfig_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    result = type_in("list", "--kubeconfig", str(tmp_path / "none"))
    assert result.exit_code == Exit.WRONG_USE
    assert "kubeconfig" in result.stderr


def test_a_cluster_that_does_not_answer_is_said_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("""
apiVersion: v1
kind: Config
current-context: dead
contexts: [{name: dead, context: {cluster: dead, user: me, namespace: team}}]
clusters: [{name: dead, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: me, user: {token: secret}}]
""")
    result = type_in("status", "bert", "--kubeconfig", str(file))
    assert result.exit_code == Exit.UNAVAILABLE
    assert result.stderr.startswith("dsjob: the API server at http://127.0.0.1:1 cannot be reached")
    assert len(result.stderr.splitlines()) == 1
    assert "secret" not in result.stderr
    other = type_in("status", "bert", "--kubeconfig", str(file), "--context", "gone")
    assert other.exit_code == Exit.WRONG_USE


@pytest.mark.parametrize("words", [("status",), ("nonsense",), ("list", "--no-such-option")])
def test_what_cannot_be_parsed_is_wrong_use(words: tuple[str, ...]) -> None:
    assert type_in(*words).exit_code == Exit.WRONG_USE


def test_every_error_has_the_exit_code_of_its_kind() -> None:
    kinds: dict[type[CliError], Exit] = {
        Refused: Exit.FAILED,
        NotThere: Exit.FAILED,
        WrongUse: Exit.WRONG_USE,
        Unavailable: Exit.UNAVAILABLE,
        Denied: Exit.UNAVAILABLE,
        TooLate: Exit.TOO_LATE,
    }
    assert {kind: kind.exit_code for kind in kinds} == kinds


def test_a_refusal_names_each_field_once() -> None:
    causes = [("spec.nodes", "too small"), ("spec.nodes", "too small"), ("spec.image", "empty")]
    told = describe_refusal("deepspeedjob/bert", Refused("all in one", status=422, causes=causes))
    assert told.splitlines() == [
        "deepspeedjob/bert is refused:", "  spec.nodes: too small", "  spec.image: empty",
    ]  # fmt: skip


def test_a_conflict_says_the_way_out() -> None:
    refusal = Refused("conflict", status=409, causes=[(".spec.nodes", 'conflict with "argocd"')])
    assert "--force-conflicts" in describe_refusal("deepspeedjob/bert", refusal)
    assert "argocd" in describe_refusal("deepspeedjob/bert", refusal)


def a_job(phase: str, *, finished: bool = False, step: int = 0) -> dict[str, Any]:
    ends = {"type": "Finished", "status": str(finished), "reason": "x"}
    return {"status": {"phase": phase, "conditions": [ends], "progress": {"step": step}}}


class Looks:
    """A job that is another one at each look; errors are raised."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers: Iterator[dict[str, Any] | Exception] = iter(answers)
        self.said: list[str] = []

    def look(self) -> dict[str, Any]:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def follower(self, **limits: float) -> follow.Follower:
        report = lambda _: ["the report"]  # noqa: E731
        return follow.Follower(self.look, self.said.append, report, poll_s=0, **limits)


def test_each_change_is_a_line_and_the_end_is_returned() -> None:
    end = a_job("Succeeded", finished=True, step=2)
    looks = Looks(*[a_job("Running", step=1)] * 3, a_job("Running", step=2), end)
    assert looks.follower().follow() is end
    assert [line.split("] ")[1].split() for line in looks.said] == [
        ["Running", "step", "1"], ["Running", "step", "2"], ["Succeeded", "step", "2"],
    ]  # fmt: skip


def test_a_server_that_is_away_for_a_moment_does_not_end_the_watch() -> None:
    away = Unavailable("away")
    looks = Looks(away, away, a_job("Succeeded", finished=True))
    looks.follower().follow()
    assert sum("away" in line for line in looks.said) == 1


@pytest.mark.parametrize("error", [Denied("no right"), NotThere("gone")])
def test_what_cannot_pass_ends_the_watch(error: CliError) -> None:
    with pytest.raises(type(error)):
        Looks(a_job("Running"), error, a_job("Succeeded", finished=True)).follower().follow()


def test_a_deadline_ends_the_watch_after_a_report() -> None:
    looks = Looks(*[a_job("Running")] * 100)
    with pytest.raises(TooLate):
        looks.follower(deadline_s=-1).follow()
    assert looks.said[-1] == "the report"


def test_a_quiet_job_is_reported() -> None:
    looks = Looks(a_job("Running"), a_job("Running"), a_job("Succeeded", finished=True))
    looks.follower(quiet_s=-1).follow()
    assert "the report" in looks.said
