"""A run's code from git over ssh: a real sshd on loopback, with a key and known hosts."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepspeed_trainer.contract import CodeOrder, FrozenCode
from deepspeed_trainer.source.bring import bring
from deepspeed_trainer.source.faults import CodeRefused, CodeUnavailable
from tests.support.eventually import eventually
from tests.support.gitserver import Repository

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="needs an sshd and root, see tests/wire/test_code_ssh"
)


def make_key(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    run = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(run, check=True)
    return path


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """An sshd that lets one key in, until the test ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    host, user = make_key(tmp_path / "host"), make_key(tmp_path / "user")
    Path("/run/sshd").mkdir(exist_ok=True)
    config = tmp_path / "sshd.conf"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host}\nAuthorizedKeysFile {user}.pub\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "StrictModes no\nUsePAM no\nPidFile none\n"
    )
    assert SSHD is not None
    with subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE) as server:
        eventually(lambda: answers(port), "sshd answers", within_s=30)
        yield port
        server.terminate()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / "code.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder)], check=True)
    found = Repository(folder)
    found.commit({"a.py": "1"})
    return found


@pytest.fixture
def secret(tmp_path: Path, port: int) -> Path:
    folder = tmp_path / "secret"
    folder.mkdir()
    shutil.copy(tmp_path / "user", folder / "ssh-privatekey")
    kind, key, *_ = (tmp_path / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "username").write_text(getpass.getuser())
    return folder


def fetch(tmp_path: Path, secret: Path, repository: Repository, port: int) -> FrozenCode:
    (tmp_path / "code").mkdir(exist_ok=True)
    order = CodeOrder(
        kind="git",
        storage=str(tmp_path / "storage"),
        folder="run-1/code",
        makes_copy=True,
        uri=f"ssh://127.0.0.1:{port}{repository.folder}",
        ref="main",
        secret="git",
    )
    return bring(order, tmp_path / "code", secret_folder=secret, pause=lambda _: None)


def test_a_key_and_a_known_host_are_enough(
    tmp_path: Path, secret: Path, repository: Repository, port: int
) -> None:
    frozen = fetch(tmp_path, secret, repository, port)
    assert frozen.commit == repository.git("rev-parse", "main")
    assert (tmp_path / "code" / "a.py").read_text() == "1"


def test_a_host_that_is_another_than_the_known_one_is_refused(
    tmp_path: Path, secret: Path, repository: Repository, port: int
) -> None:
    kind, key, *_ = make_key(tmp_path / "other").with_suffix(".pub").read_text().split()
    (secret / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.secretRef: .*HAS CHANGED"):
        fetch(tmp_path, secret, repository, port)


def test_a_host_that_nobody_knows_is_refused(
    tmp_path: Path, secret: Path, repository: Repository, port: int
) -> None:
    (secret / "known_hosts").write_text("\n")
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.secretRef: .*verification failed"):
        fetch(tmp_path, secret, repository, port)


def test_a_key_that_is_not_let_in_is_refused_and_not_repeated(
    tmp_path: Path, secret: Path, repository: Repository, port: int
) -> None:
    key = make_key(tmp_path / "other")
    shutil.copy(key, secret / "ssh-privatekey")
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.secretRef: .*denied") as refused:
        fetch(tmp_path, secret, repository, port)
    assert key.read_text().splitlines()[1] not in str(refused.value)


def test_a_user_that_is_a_word_of_the_shell_is_refused(
    tmp_path: Path, secret: Path, repository: Repository, port: int
) -> None:
    (secret / "username").write_text(f"x;touch {tmp_path}/evil")
    with pytest.raises(CodeRefused, match="username"):
        fetch(tmp_path, secret, repository, port)
    assert not (tmp_path / "evil").exists()


def test_a_server_that_is_not_there_may_come_back(
    tmp_path: Path, secret: Path, repository: Repository
) -> None:
    with pytest.raises(CodeUnavailable, match=r"^spec\.code\.git\.url: "):
        fetch(tmp_path, secret, repository, 1)
