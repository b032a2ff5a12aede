"""The entry point, as far as it goes without an API server: one clear sentence and an exit code."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepspeed_operator.__main__ import main


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_missing_setting_is_one_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DSJOB_NAMESPACE", raising=False)
    assert main() == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert "DSJOB_NAMESPACE" in sentence


def test_no_api_server_is_one_sentence_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DSJOB_NAMESPACE", "dsjob-system")
    monkeypatch.setenv("DSJOB_TRAINER_IMAGE", "trainer:1")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(
        "kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    assert main() == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    [error] = [line for line in lines if line["level"] == "ERROR"]
    assert "KUBECONFIG" in error["why"]
