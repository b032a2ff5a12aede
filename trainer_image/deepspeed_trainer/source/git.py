"""A commit of a git repository, fetched without anything that a repository could bring along.

Only the commit that is meant comes, into an empty bare repository without hooks, settings or
templates of anybody's.  Its files are read with `git archive` and every attribute switched off, so
they are the bytes of the commit: no filter runs (Git LFS leaves its pointers), no submodule is
followed, no line's end turns, nothing is left out.
"""

import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source.faults import CodeError, CodeRefused, CodeUnavailable, clean
from deepspeed_trainer.source.pack import MAX_MEMBERS, Gate, read_tar, write_copy
from deepspeed_trainer.source.secret import Secret

_URL: Final = r"(https|ssh)://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?/[A-Za-z0-9._~/+%-]+"
_REF: Final = r"[A-Za-z0-9_][A-Za-z0-9._/@+#-]*"
_ATTRIBUTES: Final = (
    "* -export-ignore -export-subst -filter -ident -text -eol -working-tree-encoding"
)
_TIMEOUT_S: Final = 900
_CHUNK_BYTES: Final = 64 * 1024

REFUSALS: Final = (
    ("ref", "couldn't find remote ref"),
    ("ref", "not our ref"),
    ("ref", "unadvertised object"),
    ("url", "' not found"),
    ("url", "could not be found"),
    ("url", "does not appear to be a git repository"),
    ("url", "Repository not found"),
    ("secretRef", "Authentication failed"),
    ("secretRef", "could not read Username"),
    ("secretRef", "could not read Password"),
    ("secretRef", "Permission denied"),
    ("secretRef", "error: 403"),
    ("secretRef", "error: 401"),
    ("secretRef", "Host key verification failed"),
    ("secretRef", "Load key"),
    ("secretRef", "SSL certificate problem"),
    ("secretRef", "server certificate"),
    ("secretRef", "certificate subject name"),
    ("secretRef", "setting certificate"),
)
"""Git ends every failure with the same exit code.  What its words (in English, as asked for) say is
for good; anything else may pass.  They repeat the address, so a mark has a space, which no address
has."""

_TOO_LARGE: Final = f"died of signal {int(signal.SIGXFSZ)}"
"""What git says of a child that met the limit on a file's size."""

_HINTS: Final = {
    "ref": "name a branch, a tag or all digits of a commit that the server gives out",
    "url": "check the address; without credentials servers also say so of private repositories",
    "secretRef": (
        "https takes the keys username and password, or token, and ca.crt for a private"
        " certificate; ssh takes ssh-privatekey and known_hosts"
    ),
}


class Repository:
    """An empty bare repository below a scratch folder, and git as it is allowed to run there."""

    def __init__(self, order: CodeOrder, secret: Secret, scratch: Path) -> None:
        self._order = order
        self._secret = secret
        self._home = scratch
        self._folder = scratch / "repository.git"

    def fetch_copy(self, target: Path) -> str:
        """Write the copy of what the ref means now; returns the commit.

        Raises:
            CodeError: naming the field.
        """
        self._check()
        self._git("init", "--quiet", "--bare", "--template=", str(self._folder))
        attributes = self._folder / "info" / "attributes"
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text(_ATTRIBUTES + "\n")
        commit = self._fetch()
        self._archive(commit, target)
        return commit

    def _check(self) -> None:
        """Refuse what the API server should have refused: git would take it for something else."""
        if not re.fullmatch(_URL, self._order.uri):
            raise CodeRefused("spec.code.git.url: must be https:// or ssh://, without a user")
        if not re.fullmatch(_REF, self._order.ref) or ".." in self._order.ref:
            raise CodeRefused("spec.code.git.ref: must be the name of a branch, tag or commit")
        if self._order.uri.startswith("ssh:"):
            for key in ("ssh-privatekey", "known_hosts"):
                if self._secret.path(key) is None:
                    raise CodeRefused(
                        f"spec.code.git.secretRef: ssh needs a Secret with the key {key!r}"
                    )

    def _fetch(self) -> str:
        options = ["--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-auto-gc"]
        self._git(*self._settings(), "fetch", *options, "--", self._order.uri, self._order.ref)
        return self._git("rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}").strip()

    def _archive(self, commit: str, target: Path) -> None:
        field = "spec.code.git"
        tree = self._find_tree(commit)
        self._look_over(tree)
        gate = Gate(f"{field}.url")
        with self._stream("archive", "--format=tar", tree) as stream:
            _copy_stream(stream, f"{field}.url", target, gate)
        if gate.is_empty:
            raise CodeRefused(f"{field}.path: commit {commit} holds no file there")

    def _find_tree(self, commit: str) -> str:
        """Return the id of the folder that becomes the code."""
        path = self._order.path
        name = f"{commit}:{path}" if path else f"{commit}^{{tree}}"
        said = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", name)
        tree = said.stdout.strip()
        if said.returncode != 0 or self._git("cat-file", "-t", tree).strip() != "tree":
            raise CodeRefused(f"spec.code.git.path: commit {commit} has no folder {path!r}")
        return tree

    def _look_over(self, tree: str) -> None:
        """Refuse too many names, all of which git archive would read before its first byte.

        What is not fetched by intent is said in the container's log, so that nobody searches.
        """
        with self._stream("ls-tree", "-r", "-t", "-z", tree) as listing:
            links = _find_links(listing, "spec.code.git.url")
        if links:
            print(f"submodules are not fetched: {', '.join(links[:20])}", flush=True)  # noqa: T201

    @contextmanager
    def _stream(self, *words: str) -> Iterator[IO[bytes]]:
        """Give what git writes, as it comes.

        Raises:
            CodeUnavailable: it ended badly.
        """
        command = [*self._program(), *words]
        with subprocess.Popen(
            command, env=self._env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as git:
            if git.stdout is None:
                raise AssertionError("a pipe was asked for")
            try:
                yield git.stdout
            except BaseException:
                git.kill()
                raise
        if git.returncode != 0:
            raise CodeUnavailable(f"spec.code.git.url: git {words[0]} ended with {git.returncode}")

    def _git(self, *words: str) -> str:
        """Run git to its end.

        Raises:
            CodeError: with its words.
        """
        done = self._run(*words)
        if done.returncode != 0:
            raise self._read_failure(done.stderr)
        return done.stdout

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self._program(), *words],
                env=self._env(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CodeUnavailable(f"spec.code.git.url: git took {_TIMEOUT_S} s") from error
        except FileNotFoundError as error:
            raise CodeRefused("spec.code.git: there is no git in the trainer image") from error

    def _read_failure(self, said: str) -> CodeError:
        words = clean(said, self._secret.hidden())
        if _TOO_LARGE in said:
            return CodeRefused("spec.code.git.url: the commit is too large; keep data on storage")
        for field, mark in REFUSALS:
            if mark in said:
                return CodeRefused(f"spec.code.git.{field}: git says: {words}; {_HINTS[field]}")
        return CodeUnavailable(f"spec.code.git.url: git says: {words or 'nothing'}")

    def _program(self) -> Sequence[str]:
        return ("git", f"--git-dir={self._folder}")

    def _settings(self) -> list[str]:
        """Return git's settings for the fetch; what they name are paths, never secrets."""
        folder = self._secret.folder
        found = {
            "core.hooksPath": os.devnull,
            "credential.helper": "",
            "http.lowSpeedLimit": "1000",
            "http.lowSpeedTime": "60",
        }
        if (bundle := self._secret.path("ca.crt")) is not None:
            found["http.sslCAInfo"] = str(bundle)
        if self._secret.login() is not None and self._order.uri.startswith("https:"):
            # For this host alone: a redirect elsewhere asks in vain.
            place = urlsplit(self._order.uri)
            helper = f"!{sys.executable} -m deepspeed_trainer.source.credential {folder}"
            found[f"credential.https://{place.netloc}.helper"] = helper
        return [word for name, value in found.items() for word in ("-c", f"{name}={value}")]

    def _env(self) -> dict[str, str]:
        """Return all that git and its children see of the environment."""
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "http_proxy", "https_proxy", "no_proxy")
        passed = [name for word in kept for name in {word, word.upper()} if name in os.environ]
        found = {name: os.environ[name] for name in passed}
        return found | {
            "HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "https:ssh",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_SSH_COMMAND": self._ssh(),
        }

    def _ssh(self) -> str:
        options = {
            "User": self._secret.ssh_user(),
            "IdentityFile": str(self._secret.folder / "ssh-privatekey"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self._secret.folder / "known_hosts"),
            "GlobalKnownHostsFile": os.devnull,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "20",
        }
        words = ["ssh", "-F", os.devnull]
        return " ".join([*words, *(f"-o {name}={value}" for name, value in options.items())])


def _find_links(listing: IO[bytes], field: str) -> list[str]:
    """Return the names of submodules in a listing, of which no more is held than a piece."""
    count, rest, links = 0, b"", []
    while data := listing.read(_CHUNK_BYTES):
        *lines, rest = (rest + data).split(b"\0")
        count += len(lines)
        if count > MAX_MEMBERS or len(rest) > _CHUNK_BYTES:
            raise CodeRefused(
                f"{field}: the commit has more than {MAX_MEMBERS} files, or a very long name; keep"
                " data on the storage"
            )
        entries = (line.partition(b"\t") for line in lines)
        links += [name.decode(errors="replace") for kind, _, name in entries if b" commit " in kind]
    return links


def _copy_stream(stream: IO[bytes], field: str, target: Path, gate: Gate) -> None:
    """Copy git's tar; what follows its end is read too, so that git can end well."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as source:
            write_copy(read_tar(source, field), target, gate)
        while stream.read(_CHUNK_BYTES):
            pass
    except tarfile.TarError as error:
        raise CodeUnavailable(f"{field}: git archive was cut off: {error}") from error
