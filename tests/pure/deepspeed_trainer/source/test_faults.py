"""What of other programs' words may go into a job's status."""

from pathlib import Path

import pytest

from deepspeed_trainer.codeorder import MAX_FAULT_CHARS
from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source.faults import CodeRefused, clean
from deepspeed_trainer.source.git import Repository
from deepspeed_trainer.source.secret import Secret


def a_secret(folder: Path, **keys: str) -> Secret:
    for key, text in keys.items():
        (folder / key).write_text(text)
    return Secret(folder, "git", "spec.code.git")


def test_words_come_on_one_line_bounded_and_without_control_characters() -> None:
    assert clean("fatal:\n  no\x1b[31m such\tthing\r\n") == "fatal: no[31m such thing"
    assert len(clean("long " * 1000)) < MAX_FAULT_CHARS


@pytest.mark.parametrize("said", ["pa55-w0rd", "bWU6cGE1NS13MHJk"])
def test_a_server_that_repeats_the_login_is_not_repeated(tmp_path: Path, said: str) -> None:
    secret = a_secret(tmp_path, username="me", password="pa55-w0rd")
    order = CodeOrder(
        kind="git", storage="/", folder="code", makes_copy=True, uri="https://host/a", ref="main"
    )
    failure = Repository(order, secret, tmp_path)._read_failure(f"remote: you sent {said}, no")
    assert str(failure) == "spec.code.git.url: git says: remote: you sent ***, no"


def test_a_login_of_several_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodeRefused, match="one line"):
        a_secret(tmp_path, token="a\nhost=evil").login()


def test_keys_of_a_secret_that_no_job_names_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    assert Secret(tmp_path, "", "spec.code.git").login() is None
