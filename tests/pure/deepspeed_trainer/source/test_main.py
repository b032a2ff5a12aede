"""The fetcher's last word: what the kubelet finds in its termination message."""

import io
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from deepspeed_trainer.contract import CODE_ENV, REFUSED, CodeOrder, CodeReport, ContractError
from deepspeed_trainer.source import __main__ as fetcher


@pytest.fixture(autouse=True)
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fetcher, "_ANSWER", tmp_path / "answer")
    monkeypatch.setattr(fetcher, "CODE_MOUNT", str(tmp_path / "code"))
    # The limit would stay with the process that runs the tests.
    monkeypatch.setattr(fetcher.resource, "setrlimit", lambda *_: None)
    (tmp_path / "code").mkdir()
    return tmp_path / "answer"


def order(storage: Path, digest: str) -> CodeOrder:
    return CodeOrder(
        kind="archive",
        storage=str(storage),
        folder="run-1/code",
        makes_copy=True,
        uri="storage://code.tar",
        sha256=digest,
    )


def test_it_says_which_code_there_is(
    tmp_path: Path, answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "code.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.py"), io.BytesIO())
    digest = sha256((tmp_path / "code.tar").read_bytes()).hexdigest()
    monkeypatch.setenv(CODE_ENV, order(tmp_path, digest).to_json())
    assert fetcher.main() == 0
    report = CodeReport.from_json(answer.read_text())
    assert report.frozen is not None
    assert (tmp_path / "run-1" / "code" / f"{report.frozen.sha256}.tar").is_file()
    assert (tmp_path / "code" / "a.py").is_file()


def test_it_says_why_there_is_none(
    tmp_path: Path, answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE_ENV, order(tmp_path, "0" * 64).to_json())
    assert fetcher.main() == 1
    fault = CodeReport.from_json(answer.read_text()).fault
    assert fault is not None
    assert (fault.reason, fault.message.split(":")[0]) == (REFUSED, "spec.code.archive.uri")


def test_an_order_that_cannot_be_read_is_refused(
    answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE_ENV, '{"kind": "svn"}')
    assert fetcher.main() == 1
    fault = CodeReport.from_json(answer.read_text()).fault
    assert fault is not None
    assert fault.reason == REFUSED


def test_an_order_survives_the_way_to_the_pod() -> None:
    given = order(Path("/mnt/dsjob"), "0" * 64)
    assert CodeOrder.from_json(given.to_json()) == given
    with pytest.raises(ContractError, match="more is not a field"):
        CodeOrder.from_json(given.to_json().replace('"ref"', '"more": "", "ref"'))
