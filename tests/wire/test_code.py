"""A run's code from real servers: git over https, archives over https, the job's own storage.

Real here: git on both sides, TLS, logins and redirects on loopback, and a folder as the storage.
"""

import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from deepspeed_trainer.contract import CodeOrder, FrozenCode
from deepspeed_trainer.source.bring import MARK_FILE, PAUSES_S, bring
from deepspeed_trainer.source.faults import CodeRefused, CodeUnavailable
from tests.support.gitserver import GitServer, Repository, git_server

PASSWORD = "pa55-w0rd"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "server") as found:
        yield found


@pytest.fixture
def repository(server: GitServer) -> Repository:
    return server.repository()


@dataclass
class Pod:
    """A pod's folders, and what it waited."""

    folder: Path
    storage: Path
    waited: list[float] = field(default_factory=list)

    def give(self, **keys: str) -> None:
        """Mount a Secret with these keys."""
        (self.folder / "secret").mkdir(parents=True, exist_ok=True)
        for key, text in keys.items():
            path = self.folder / "secret" / key.replace("__", "-").replace("_dot_", ".")
            path.touch(mode=0o600)
            path.write_text(text)

    def bring(self, order: CodeOrder) -> FrozenCode:
        code = self.folder / "code"
        code.mkdir(parents=True, exist_ok=True)
        return bring(
            order,
            code,
            secret_folder=self.folder / "secret",
            files=self.folder / "files",
            pause=self.waited.append,
        )

    def read(self) -> dict[str, str]:
        code = self.folder / "code"
        files = (path for path in code.rglob("*") if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(code)): path.read_text() for path in files}


@pytest.fixture
def pod(tmp_path: Path, server: GitServer) -> Pod:
    """The head's pod, which trusts the server's authority."""
    found = Pod(tmp_path / "head", tmp_path / "storage")
    found.storage.mkdir()
    found.give(ca_dot_crt=server.authority.read_text())
    return found


@pytest.fixture
def order(server: GitServer, pod: Pod) -> CodeOrder:
    return CodeOrder(
        kind="git",
        storage=str(pod.storage),
        folder="ns/name/uid/run-1/code",
        makes_copy=True,
        uri=f"{server.url}/team/code.git",
        ref="main",
        secret="git",
    )


def test_the_commit_of_a_branch_comes_byte_for_byte(
    repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    files = {"train.py": "print(1)\r\n", "pkg/a.py": "$Id$ $Format:%H$", "run.sh": "true"}
    commit = repository.commit({**files, ".gitattributes": "* text=auto ident export-subst"})
    frozen = pod.bring(order)
    assert frozen.commit == commit
    found = pod.read()
    assert found.pop(".gitattributes")
    assert found == {name: text.replace("\r\n", "\n") for name, text in files.items()}
    assert (pod.folder / "code" / "train.py").read_bytes() == b"print(1)\r\n"
    assert (pod.folder / "code" / "run.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("kind", ["branch", "tag", "annotated tag", "commit", "HEAD"])
def test_a_ref_may_be(repository: Repository, pod: Pod, order: CodeOrder, kind: str) -> None:
    first = repository.commit({"a.py": "first"})
    repository.git("tag", "v1", first)
    repository.git("tag", "-m", "told", "v2", first)
    repository.git("update-ref", "refs/heads/feature/x", first)
    repository.commit({"a.py": "second"}, branch="main" if kind != "HEAD" else "other")
    refs = {"branch": "feature/x", "tag": "v1", "annotated tag": "v2", "commit": first}
    assert pod.bring(replace(order, ref=refs.get(kind, kind))).commit == first
    assert pod.read() == {"a.py": "first"}


def test_a_run_keeps_its_commit_when_the_branch_moves_or_goes(
    repository: Repository, pod: Pod, order: CodeOrder, tmp_path: Path, server: GitServer
) -> None:
    first = repository.commit({"a.py": "first"})
    frozen = pod.bring(order)
    repository.commit({"a.py": "second"})
    assert pod.bring(order) == frozen
    assert pod.read() == {"a.py": "first"}
    repository.git("update-ref", "-d", "refs/heads/main")
    asked = len(server.met)
    worker = Pod(tmp_path / "worker", pod.storage)
    later = replace(order, makes_copy=False, expected=frozen.sha256)
    assert worker.bring(later) == frozen
    assert worker.read() == {"a.py": "first"}
    assert frozen.commit == first
    assert len(server.met) == asked, "nobody asked the server again"


def test_a_worker_waits_for_the_copy_and_needs_no_secret(
    repository: Repository, pod: Pod, order: CodeOrder, tmp_path: Path
) -> None:
    repository.commit({"a.py": "first"})
    worker = Pod(tmp_path / "worker", pod.storage)

    class Enough(Exception):
        """The worker has waited long enough."""

    def wait(seconds: float) -> None:
        worker.waited.append(seconds)
        if len(worker.waited) == 3:
            pod.bring(order)
        if len(worker.waited) > 3:
            raise Enough

    (worker.folder / "code").mkdir(parents=True)
    bring(replace(order, makes_copy=False), worker.folder / "code", pause=wait)
    assert worker.read() == {"a.py": "first"}


def test_of_two_copies_the_one_that_was_marked_first_counts(
    repository: Repository,
    pod: Pod,
    order: CodeOrder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository.commit({"a.py": "first"})
    other = Pod(tmp_path / "other", pod.storage)
    other.give(ca_dot_crt=(pod.folder / "secret" / "ca.crt").read_text())
    real = json.dumps

    def dumps(*given: object, **more: object) -> str:
        monkeypatch.setattr(json, "dumps", real)
        # Meanwhile the branch moves, and another head (a node came back) is quicker.
        repository.commit({"a.py": "second"})
        other.bring(order)
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("deepspeed_trainer.source.bring.json.dumps", dumps)
    frozen = pod.bring(order)
    assert pod.read() == other.read() == {"a.py": "second"}
    mark = json.loads((pod.storage / order.folder / MARK_FILE).read_text())
    assert mark["sha256"] == frozen.sha256


def test_a_folder_of_the_repository_becomes_the_code(
    repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    repository.commit({"src/bert/train.py": "1", "src/other.py": "2"})
    pod.bring(replace(order, path="src/bert"))
    assert pod.read() == {"train.py": "1"}


def test_submodules_hooks_and_filters_stay_out(  # noqa: PLR0917  fixtures
    repository: Repository,
    pod: Pod,
    order: CodeOrder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trace = tmp_path / "trace"
    evil = tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\ntouch {trace}\ncat\n")
    evil.chmod(0o755)
    # What a machine or a home could be set to do.
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[filter "lfs"]\n\tsmudge = {evil}\n\tprocess = {evil}\n\trequired = true\n'
        f"[core]\n\thooksPath = {tmp_path}\n\tfsmonitor = {evil}\n[init]\n\ttemplateDir = {home}\n"
    )
    (tmp_path / "reference-transaction").symlink_to(evil)
    monkeypatch.setenv("HOME", str(home))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    repository.commit(
        {
            "data.bin": pointer,
            ".gitattributes": "*.bin filter=lfs\nhidden.py export-ignore\n",
            "hidden.py": "here",
            ".gitmodules": '[submodule "lib"]\n\tpath = lib\n\turl = file:///etc\n',
        },
        extra=(f"160000 {'1' * 40}\tlib",),
    )
    pod.bring(order)
    found = pod.read()
    assert found["data.bin"] == pointer
    assert found["hidden.py"] == "here"
    assert not list((pod.folder / "code").glob("lib/*"))
    assert not list(pod.folder.rglob(".git"))
    assert not trace.exists()
    assert "submodules are not fetched: lib" in capfd.readouterr().out


def test_a_link_out_of_a_repository_is_refused(
    repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    blob = repository.git("hash-object", "-w", "--stdin", stdin="../../etc/passwd")
    repository.commit({"a.py": "1"}, extra=(f"120000 {blob}\tlink",))
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.url: link 'link' leads out"):
        pod.bring(order)
    assert pod.read() == {}
    assert not (pod.storage / order.folder).exists()


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_a_commit_of_very_many_names_is_refused_before_they_are_all_read(
    repository: Repository, pod: Pod, order: CodeOrder, kind: str
) -> None:
    # A million names out of six small objects.
    mode, found = "100644 blob", repository.git("hash-object", "-w", "--stdin", stdin="")
    if kind == "folders":
        mode, found = "040000 tree", repository.git("mktree", stdin="")
    for _ in range(6):
        lines = "".join(f"{mode} {found}\t{name}\n" for name in "0123456789")
        mode, found = "040000 tree", repository.git("mktree", stdin=lines)
    commit = repository.git("commit-tree", found, "-m", "many")
    repository.git("update-ref", "refs/heads/main", commit)
    tracemalloc.start()
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.url: .*100000 files"):
        pod.bring(order)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 * 1024**2


def test_a_commit_with_a_name_without_end_is_refused(
    repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    blob = repository.git("hash-object", "-w", "--stdin", stdin="")
    tree = repository.git("mktree", stdin=f"100644 blob {blob}\t{'x' * 200_000}\n")
    commit = repository.git("commit-tree", tree, "-m", "long")
    repository.git("update-ref", "refs/heads/main", commit)
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.url: .* name"):
        pod.bring(order)


REFUSED = {
    "no such branch": ({"ref": "nothing"}, "ref", "find remote ref nothing"),
    "no such commit": ({"ref": "1" * 40}, "ref", "not our ref"),
    "an option": ({"ref": "--upload-pack=touch /tmp/x"}, "ref", "must be the name"),
    "a short option": ({"ref": "-q"}, "ref", "must be the name"),
    "a refspec": ({"ref": "main:refs/heads/x"}, "ref", "must be the name"),
    "no such folder": ({"path": "nothing"}, "path", "no folder 'nothing'"),
    "a file for a folder": ({"path": "a.py"}, "path", "no folder 'a.py'"),
    "an option as address": ({"uri": "--upload-pack=touch"}, "url", "must be https://"),
    "a local address": ({"uri": "file:///etc"}, "url", "must be https://"),
    "a command as address": ({"uri": "ext::sh -c touch"}, "url", "must be https://"),
    "a user in the address": ({"uri": "https://me:x@host/a"}, "url", "must be https://"),
    "an ssh option as host": ({"uri": "ssh://-oProxyCommand=touch/a"}, "url", "must be https://"),
    "ssh without a key": ({"uri": "ssh://host/a.git"}, "secretRef", "'ssh-privatekey'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_for_good_by_its_field(
    repository: Repository, pod: Pod, order: CodeOrder, case: str
) -> None:
    repository.commit({"a.py": "1"})
    changes, name, words = REFUSED[case]
    with pytest.raises(CodeRefused, match=rf"^spec\.code\.git\.{name}: ") as refused:
        pod.bring(replace(order, **changes))
    assert words in str(refused.value)
    assert pod.waited == []


def test_a_repository_that_is_not_there_is_refused(
    server: GitServer, repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.url: .*not found"):
        pod.bring(replace(order, uri=f"{server.url}/team/other.git"))


def test_a_certificate_of_an_unknown_authority_is_refused(
    repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    repository.commit({"a.py": "1"})
    (pod.folder / "secret" / "ca.crt").unlink()
    pod.give(token="t")
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.secretRef: .*certificate"):
        pod.bring(order)


@pytest.mark.parametrize(
    ("keys", "user"),
    [
        ({"username": "me", "password": PASSWORD + "\n"}, "me"),
        ({"token": PASSWORD}, "x-access-token"),
        ({"username": "bot", "token": PASSWORD}, "bot"),
    ],
)
def test_a_login_is_used_and_told_nowhere(  # noqa: PLR0917  fixtures
    server: GitServer,
    repository: Repository,
    pod: Pod,
    order: CodeOrder,
    keys: dict[str, str],
    user: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    repository.commit({"a.py": "1"})
    server.logins = {user: PASSWORD}
    pod.give(**keys)
    assert pod.bring(order).commit is not None
    assert {met for _, met in server.met} == {None, user}
    out, err = capfd.readouterr()
    assert PASSWORD not in out + err
    for path in [*pod.storage.rglob("*"), *(pod.folder / "code").rglob("*")]:
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes()


def test_a_wrong_login_is_refused_without_repeating_it(
    server: GitServer, repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    repository.commit({"a.py": "1"})
    server.logins = {"me": "another"}
    pod.give(username="me", password=PASSWORD)
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.secretRef: ") as refused:
        pod.bring(order)
    assert PASSWORD not in str(refused.value)


def test_no_login_where_one_is_asked_for_is_refused(
    server: GitServer, repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    server.logins = {"me": PASSWORD}
    with pytest.raises(CodeRefused, match=r"^spec\.code\.git\.secretRef: "):
        pod.bring(order)


def test_a_redirect_to_another_server_does_not_get_the_login(
    server: GitServer, repository: Repository, pod: Pod, order: CodeOrder, tmp_path: Path
) -> None:
    with git_server(tmp_path / "elsewhere") as other:
        other.logins = {"me": PASSWORD}
        bundle = server.authority.read_text() + other.authority.read_text()
        pod.give(username="me", password=PASSWORD, ca_dot_crt=bundle)
        server.redirect = other.url
        with pytest.raises(CodeRefused):
            pod.bring(order)
        assert other.met
        assert {user for _, user in other.met} == {None}


def test_a_secret_that_is_not_there_may_come_later(pod: Pod, order: CodeOrder) -> None:
    (pod.folder / "secret" / "ca.crt").unlink()
    with pytest.raises(CodeUnavailable, match=r"^spec\.code\.git\.secretRef: .*'git'"):
        pod.bring(order)
    assert pod.waited == list(PAUSES_S)


def test_a_server_in_trouble_is_asked_again(
    server: GitServer, repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    repository.commit({"a.py": "1"})
    server.broken = 2
    assert pod.bring(order).commit is not None
    assert pod.waited == list(PAUSES_S[:2])


def test_a_server_that_does_not_answer_is_given_up_for_now(pod: Pod, order: CodeOrder) -> None:
    with pytest.raises(CodeUnavailable, match=r"^spec\.code\.git\.url: git says: "):
        pod.bring(replace(order, uri="https://127.0.0.1:1/team/code.git"))
    assert pod.waited == list(PAUSES_S)


def test_a_copy_that_was_changed_or_lost_is_refused(
    repository: Repository, pod: Pod, order: CodeOrder
) -> None:
    repository.commit({"a.py": "1"})
    frozen = pod.bring(order)
    copy = pod.storage / order.folder / f"{frozen.sha256}.tar"
    with pytest.raises(CodeRefused, match="began with copy"):
        pod.bring(replace(order, expected="0" * 64))
    copy.write_bytes(copy.read_bytes().replace(b"a.py", b"b.py"))
    with pytest.raises(CodeRefused, match="was changed on the storage"):
        pod.bring(order)
    copy.unlink()
    with pytest.raises(CodeRefused, match="is gone"):
        pod.bring(order)
    (pod.storage / order.folder / MARK_FILE).unlink()
    with pytest.raises(CodeRefused, match="is gone from the storage"):
        pod.bring(replace(order, expected=frozen.sha256))


def an_archive(path: Path, text: str = "print(1)") -> str:
    """Write an archive; returns its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("code-1/train.py")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def archived(server: GitServer, order: CodeOrder) -> CodeOrder:
    digest = an_archive(server.root / "releases" / "code.tgz")
    uri = f"{server.url}/releases/code.tgz"
    return replace(order, kind="archive", uri=uri, ref="", sha256=digest, path="code-1")


def test_an_archive_comes_from_a_web_server_with_a_login(
    server: GitServer, pod: Pod, archived: CodeOrder
) -> None:
    server.logins = {"me": PASSWORD}
    pod.give(username="me", password=PASSWORD)
    frozen = pod.bring(archived)
    assert pod.read() == {"train.py": "print(1)"}
    assert frozen.commit is None
    an_archive(server.root / "releases" / "code.tgz", "print(2)")
    assert pod.bring(archived) == frozen
    assert pod.read() == {"train.py": "print(1)"}


def test_an_archive_comes_from_the_jobs_own_storage(pod: Pod, archived: CodeOrder) -> None:
    digest = an_archive(pod.storage / "bundles" / "code.tgz")
    uri = "storage://bundles/code.tgz"
    pod.bring(replace(archived, uri=uri, secret="", sha256=digest))
    assert pod.read() == {"train.py": "print(1)"}


def test_another_archive_than_the_one_that_was_meant_is_refused(
    pod: Pod, archived: CodeOrder
) -> None:
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.sha256: ") as refused:
        pod.bring(replace(archived, sha256="0" * 64))
    assert archived.sha256 in str(refused.value)
    assert pod.read() == {}


def test_archives_are_refused_or_awaited_by_what_the_server_says(
    server: GitServer, pod: Pod, archived: CodeOrder
) -> None:
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.uri: .* 404"):
        pod.bring(replace(archived, uri=f"{server.url}/releases/other.git/code.tgz"))
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.uri: there is no "):
        pod.bring(replace(archived, uri="storage://bundles/none.tgz"))
    server.logins = {"me": "another"}
    pod.give(username="me", password=PASSWORD)
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.secretRef: .* 401") as refused:
        pod.bring(archived)
    assert PASSWORD not in str(refused.value)
    assert pod.waited == []
    server.logins, server.broken = {}, 1
    pod.bring(archived)
    assert pod.waited == list(PAUSES_S[:1])
    with pytest.raises(CodeUnavailable, match=r"^spec\.code\.archive\.uri: 127\.0\.0\.1:1: "):
        pod.bring(replace(archived, folder="another", uri="https://127.0.0.1:1/code.tgz"))


def test_an_archives_redirect_gets_no_login_and_leaves_no_https(
    server: GitServer, pod: Pod, archived: CodeOrder, tmp_path: Path
) -> None:
    with git_server(tmp_path / "elsewhere") as other:
        bundle = server.authority.read_text() + other.authority.read_text()
        pod.give(username="me", password=PASSWORD, ca_dot_crt=bundle)
        digest = an_archive(other.root / "releases" / "code.tgz")
        server.redirect = other.url
        pod.bring(replace(archived, sha256=digest))
        assert {user for _, user in other.met} == {None}
        assert {user for _, user in server.met} == {"me"}
        server.redirect = "http://127.0.0.1:1"
        with pytest.raises(CodeRefused, match="without https"):
            pod.bring(replace(archived, folder="another"))


def test_an_archive_of_an_unknown_authority_is_refused(pod: Pod, archived: CodeOrder) -> None:
    (pod.folder / "secret" / "ca.crt").unlink()
    pod.give(token="t")
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.secretRef: .*certificate"):
        pod.bring(archived)


def test_files_of_a_config_map_are_frozen_like_the_rest(pod: Pod, order: CodeOrder) -> None:
    files = pod.folder / "files"
    (files / "..data").mkdir(parents=True)
    (files / "..data" / "run.sh").write_text("first")
    (files / "run.sh").symlink_to("..data/run.sh")
    mounted = replace(order, kind="configMap", uri="", ref="", secret="")
    frozen = pod.bring(mounted)
    (files / "..data" / "run.sh").write_text("second")
    assert pod.bring(mounted) == frozen
    assert pod.read() == {"run.sh": "first"}
    assert (pod.folder / "code" / "run.sh").stat().st_mode & 0o111
