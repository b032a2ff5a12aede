"""The example as each cluster gets it: its storage, its images, and nothing else is changed."""

import pytest
import yaml

from devcluster.errors import Missing
from tools import example, existing, install
from tools.choice import Choice
from tools.target import Images, Target, client_environment

EVERYWHERE = existing.images_in("host/team")
THERE = Target("c", {}, "", storage_class="nfs", images=EVERYWHERE, labels=existing.LABELS)


def test_a_dev_cluster_gets_the_file_as_it_is() -> None:
    assert example.manifest_for(Target("demo", {}, "")) == example.MANIFEST


def test_another_cluster_gets_a_copy_that_says_what_differs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(example, "COPY", tmp_path / "job.yaml")
    claim, job = yaml.safe_load_all(example.manifest_for(THERE).read_text())
    told_claim, told_job = example.read_documents()
    assert claim["spec"].pop("storageClassName") == "nfs"
    assert told_claim["spec"].pop("storageClassName") == "shared"
    for name, value in (
        ("image", "host/team/deepspeed-quickstart:dev"),
        ("imagePullPolicy", "Always"),
    ):
        assert job["spec"].pop(name) == value
        del told_job["spec"][name]
    for found, told in ((claim, told_claim), (job, told_job)):
        assert found["metadata"].pop("labels") == existing.LABELS
        assert found == told


def test_fitting_changes_no_document_of_its_caller() -> None:
    given = example.read_documents()
    example.fit(given, THERE)
    assert given == example.read_documents()


def test_images_have_the_names_of_their_registry() -> None:
    found = existing.images_in("host/team")
    assert found == Images(
        "host/team/deepspeed-operator:dev",
        "host/team/deepspeed-trainer:dev",
        "host/team/deepspeed-quickstart:dev",
        "Always",
    )
    assert existing.images_in("") == Images()


def test_the_chart_is_told_the_same_names() -> None:
    values = install.dev_values(EVERYWHERE)
    assert values["image"] == {
        "repository": "host/team/deepspeed-operator", "tag": "dev", "pullPolicy": "Always",
    }  # fmt: skip
    assert values["trainerImage"] == "host/team/deepspeed-trainer:dev"
    assert values["podAnnotations"][install.FINGERPRINT]


def test_the_users_own_programs_come_first(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/own")
    first, *others = client_environment("/k")["PATH"].split(":")
    assert first == "/own"
    assert others


def test_no_context_is_said_in_one_sentence(tmp_path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(Missing, match="kubectl config use-context NAME") as refused:
        existing.open_context(Choice("existing", kubeconfig=str(missing)))
    assert str(missing) in str(refused.value)
    assert "\n" not in str(refused.value)
