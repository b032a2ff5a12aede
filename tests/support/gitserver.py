"""A git server over https as people have them: git's own http-backend, logins, redirects, files.

Real here: git on both sides, TLS with a certificate of its own authority, basic authentication.
"""

import base64
import contextlib
import ipaddress
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Repository:
    """A bare repository on the server, written to without a working tree."""

    folder: Path

    def git(self, *words: str, stdin: str | None = None) -> str:
        env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull}
        for who in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{who}_NAME": "a", f"GIT_{who}_EMAIL": "a@example.com"}
        command = ["git", f"--git-dir={self.folder}", *words]
        return subprocess.run(
            command, env=env, input=stdin, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(
        self, files: dict[str, str], *, branch: str = "main", extra: tuple[str, ...] = ()
    ) -> str:
        """Make a commit of these files alone; `extra` are lines of `git update-index`."""
        index = self.folder / "new-index"
        index.unlink(missing_ok=True)
        lines = [
            f"{'100755' if name.endswith('.sh') else '100644'} "
            f"{self.git('hash-object', '-w', '--stdin', stdin=text)}\t{name}"
            for name, text in files.items()
        ]
        update = ["env", f"GIT_INDEX_FILE={index}", "git", f"--git-dir={self.folder}"]
        subprocess.run(
            [*update, "update-index", "--add", "--index-info"],
            input="\n".join([*lines, *extra]) + "\n", text=True, check=True,
        )  # fmt: skip
        tree = subprocess.run(
            [*update, "write-tree", "--missing-ok"], capture_output=True, text=True, check=True
        ).stdout.strip()
        commit = self.git("commit-tree", tree, "-m", "a commit")
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return commit


@dataclass
class GitServer:
    """Where it is, who may enter, and whom it met."""

    root: Path
    address: str
    port: int
    authority: Path
    """The certificate that its own is signed by."""
    logins: dict[str, str] = field(default_factory=dict)
    redirect: str = ""
    """Where every request is sent, when set."""
    broken: int = 0
    """So many answers are 503."""
    met: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and user of every request."""

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    def repository(self, name: str = "team/code.git") -> Repository:
        folder = self.root / name
        folder.mkdir(parents=True)
        run = ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder)]
        subprocess.run(run, check=True)
        return Repository(folder)


@contextlib.contextmanager
def git_server(folder: Path, address: str = "127.0.0.1") -> Iterator[GitServer]:
    """A server on a free port of this address until the block ends."""
    root = folder / "repositories"
    root.mkdir(parents=True)
    authority, pair = _make_certificates(folder, address)
    server = ThreadingHTTPServer((address, 0), _Handler)
    found = GitServer(root, address, server.server_address[1], authority)
    server.found = found  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        found: GitServer = self.server.found  # type: ignore[attr-defined]
        user, password = self._read_login()
        found.met.append((self.path, user))
        path, _, query = self.path.partition("?")
        if found.redirect:
            self._refuse(302, Location=found.redirect + self.path)
        elif found.broken:
            found.broken -= 1
            self._refuse(503)
        elif found.logins and (user is None or found.logins.get(user) != password):
            self._refuse(401, **{"WWW-Authenticate": 'Basic realm="git"'})
        elif (found.root / path.lstrip("/")).is_file() and ".git/" not in path:
            self._send(200, {}, (found.root / path.lstrip("/")).read_bytes())
        else:
            self._run_git(found.root, path, query)

    def _read_login(self) -> tuple[str | None, str]:
        given = self.headers.get("Authorization", "")
        if not given.startswith("Basic "):
            return None, ""
        user, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
        return user, password

    def _refuse(self, status: int, **headers: str) -> None:
        self._send(status, headers, b"")

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        # Without a length the end of TLS would be the end of the answer, which GnuTLS refuses.
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _run_git(self, root: Path, path: str, query: str) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # It ends badly when it refuses something, and has answered so by then.
        done = subprocess.run(
            ["git", "http-backend"], env=env, input=body, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self._send(int(headers.pop("Status", "200").split()[0]), headers, content)


def _make_certificates(folder: Path, address: str) -> tuple[Path, Path]:
    """Make an authority and a server's certificate with its key."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)])
        for n in (f"authority of {folder}"[-64:], "git")
    ]
    made = []
    for number, name in enumerate(names):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(number + 1)
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=36500))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
        )
        if number:
            names_of_it = [x509.IPAddress(ipaddress.ip_address(address))]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names_of_it), critical=False
            )
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(_PEM))
    authority, pair = folder / "authority.crt", folder / "server.pem"
    authority.write_bytes(made[0])
    pair.write_bytes(
        made[1]
        + keys[1].private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return authority, pair


_PEM = serialization.Encoding.PEM
