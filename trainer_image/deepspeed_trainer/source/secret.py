"""The keys of the job's Secret, as files that the kubelet mounts into the fetcher alone.

The names are those of the types kubernetes.io/basic-auth and kubernetes.io/ssh-auth, and `token`,
`known_hosts` and `ca.crt` beside them.
"""

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepspeed_trainer.source.faults import CodeRefused, CodeUnavailable

_TOKEN_USER: Final = "x-access-token"  # noqa: S105  GitHub's word for it; others take any
_SSH_USER: Final = "git"
_MAX_KEY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Secret:
    """A folder with a file for each key; it is read when a key is wanted."""

    folder: Path
    name: str
    """Of the Secret; empty when the job names none."""
    field: str
    """spec.code.git or spec.code.archive."""

    def await_keys(self) -> None:
        """Look whether the Secret that the job names is there.

        Raises:
            CodeUnavailable: it is not, or has no key.
        """
        if self.name and not self._keys():
            raise CodeUnavailable(
                f"{self.field}.secretRef: there is no Secret {self.name!r} in the job's namespace,"
                " or it has no key; create it"
            )

    def path(self, key: str) -> Path | None:
        """Return where a key's file lies, or None when the Secret has no such key."""
        found = self.folder / key
        return found if self.name and found.is_file() else None

    def text(self, key: str) -> str | None:
        """Return a key's text without the line's end that editors add."""
        path = self.path(key)
        if path is None:
            return None
        if path.stat().st_size > _MAX_KEY_BYTES:
            raise CodeRefused(f"{self.field}.secretRef: key {key!r} is too long")
        try:
            return path.read_text().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CodeRefused(f"{self.field}.secretRef: key {key!r} is no text") from error

    def login(self) -> tuple[str, str] | None:
        """Return user and password for https, or None when the Secret has no password.

        Raises:
            CodeRefused: one of them has several lines.
        """
        user, password = self.text("username"), self.text("password") or self.text("token")
        if password is None:
            return None
        if "\n" in (user or "") + password:
            raise CodeRefused(f"{self.field}.secretRef: user and password are one line each")
        return user or _TOKEN_USER, password

    def ssh_user(self) -> str:
        """Return the user of an ssh address, which names none itself.

        Raises:
            CodeRefused: it is no name that can stand in ssh's command.
        """
        user = self.text("username") or _SSH_USER
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", user):
            raise CodeRefused(f"{self.field}.secretRef: username is no name of an ssh user")
        return user

    def hidden(self) -> tuple[str, ...]:
        """Return what must not be repeated in any message."""
        login = self.login()
        if login is None:
            return ()
        return login[1], base64.b64encode(":".join(login).encode()).decode()

    def all_texts(self) -> dict[str, str]:
        """Return every key with its text, as a bucket's client takes them."""
        return {key: self.text(key) or "" for key in self._keys()} if self.name else {}

    def _keys(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return [path.name for path in self.folder.iterdir() if not path.name.startswith("..")]
