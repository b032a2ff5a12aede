"""What a user may say of the cluster to use, and what a wrong word is answered with."""

import subprocess
from pathlib import Path

import pytest

from devcluster.errors import WrongUse
from tools.choice import Choice, read_choice

ROOT = Path(__file__).resolve().parents[3]
HOST = {"CLUSTER": "existing", "KUBECONFIG": "/k", "IMAGE_REGISTRY": "host:5000/team/"}


def test_without_a_word_it_is_the_dev_cluster() -> None:
    assert read_choice({}) == read_choice({"CLUSTER": ""}) == Choice("devcluster")


def test_all_that_is_said_of_an_existing_cluster_is_read() -> None:
    found = read_choice({**HOST, "PUSH": "1", "STORAGE_CLASS": "nfs"})
    assert found == Choice("existing", "host:5000/team", True, "nfs", "/k")


def test_the_kubeconfig_is_found_where_kubectl_finds_it(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    assert read_choice({"CLUSTER": "existing"}).kubeconfig == "/home/a/.kube/config"


def test_settings_of_an_existing_cluster_mean_nothing_elsewhere() -> None:
    assert read_choice({**HOST, "CLUSTER": "kind", "PUSH": "maybe"}) == Choice("kind")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CLUSTER": "minikube"}, "devcluster, existing, kind"),
        ({"CLUSTER": "existing", "PUSH": "1"}, "IMAGE_REGISTRY=host/path"),
        ({**HOST, "PUSH": "yes"}, "neither 1 nor 0"),
        ({**HOST, "IMAGE_REGISTRY": "https://host"}, "before //"),
    ],
)
def test_a_wrong_word_is_refused_with_the_right_ones(given, said) -> None:
    with pytest.raises(WrongUse, match=said):
        read_choice(given)


def test_a_word_of_make_reaches_the_program(tmp_path: Path) -> None:
    # The Makefile itself names none of these variables: make exports what its user sets.
    (tmp_path / "Makefile").write_text("show:\n\t@echo $$CLUSTER $$STORAGE_CLASS\n")
    said = subprocess.run(
        ["make", "-s", "-C", tmp_path, "show", "CLUSTER=existing", "STORAGE_CLASS=nfs"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "existing nfs\n"
    assert "unexport" not in (ROOT / "Makefile").read_text()
