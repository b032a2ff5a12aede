"""What of other programs' words may go into a job's status."""

from pathlib import Path

import pytest

from deepspeed_trainer.codeorder import MAX_FAULT_CHARS
from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source.faults import CodeError, CodeRefused, CodeUnavailable, clean
from deepspeed_trainer.source.git import REFUSALS, Repository
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
    failure = failed(secret, "https://host/a", f"remote: you sent {said}, no")
    assert str(failure) == "spec.code.git.url: git says: remote: you sent ***, no"


def failed(secret: Secret, uri: str, said: str) -> CodeError:
    order = CodeOrder(kind="git", storage="/", folder="code", makes_copy=True, uri=uri, ref="main")
    return Repository(order, secret, secret.folder)._read_failure(said)


@pytest.mark.parametrize(
    "said",
    [
        "unable to access '{uri}/': Could not resolve host: {host}",
        "unable to access '{uri}/': Failed to connect to {host} port 443: Connection timed out",
        "unable to access '{uri}/': gnutls_handshake() failed: The TLS connection was terminated",
        "unable to access '{uri}/': The requested URL returned error: 503",
    ],
)
def test_what_stands_in_an_address_makes_no_fault_final(tmp_path: Path, said: str) -> None:
    host = "certificate.example"
    uri = f"https://{host}/team/certificate-not-found-error-403.git"
    failure = failed(a_secret(tmp_path), uri, said.format(uri=uri, host=host))
    assert isinstance(failure, CodeUnavailable)
    assert all(" " in mark for _, mark in REFUSALS), "which no address has"


@pytest.mark.parametrize(
    "said",
    [
        "SSL certificate problem: unable to get local issuer certificate",
        "SSL certificate problem: certificate has expired",
        "server certificate verification failed. CAfile: /a CRLfile: none",
        "SSL: no alternative certificate subject name matches target host name 'a'",
        "SSL: certificate subject name 'b' does not match target host name 'a'",
        "error setting certificate verify locations: CAfile: /a/ca.crt CApath: none",
        "error setting certificate file: /a/ca.crt",
    ],
)
def test_what_is_wrong_with_a_certificate_is_final(tmp_path: Path, said: str) -> None:
    words = f"fatal: unable to access 'https://a/b.git/': {said}"
    failure = failed(a_secret(tmp_path), "https://a/b.git", words)
    assert str(failure).startswith("spec.code.git.secretRef: ")


def test_a_login_of_several_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodeRefused, match="one line"):
        a_secret(tmp_path, token="a\nhost=evil").login()


def test_keys_of_a_secret_that_no_job_names_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    assert Secret(tmp_path, "", "spec.code.git").login() is None
