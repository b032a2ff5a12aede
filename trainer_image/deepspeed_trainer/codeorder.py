"""What operator and fetcher tell each other about a run's code; part of the wall.

The operator orders it from the fetcher, an init container of every pod, in an environment
variable.  The fetcher answers in its termination message: which code the run has, or why it cannot
have it.  Neither holds a secret.  Import it from `contract`.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from deepspeed_trainer.fields import Fields, read_object

CODE_ENV: Final = "DSJOB_CODE"
"""Environment variable of the fetcher that holds CodeOrder.to_json()."""
CODE_COMMAND: Final = ("python", "-m", "deepspeed_trainer.source")
CODE_CONTAINER: Final = "dsjob-code"
"""Name of the fetcher's container."""
CODE_SECRET_MOUNT: Final = "/mnt/code-secret"  # noqa: S105  a folder
"""Where the fetcher, and nobody else, finds the keys of the Secret as files."""
CODE_SOURCE_MOUNT: Final = "/mnt/code-source"
"""Where the fetcher finds the files of a ConfigMap."""
CODE_DIR: Final = "code"
"""Below a run's folder: the copy of its code, and the file that says which it is."""

MAX_REPORT_BYTES: Final = 4096
"""As much as a kubelet keeps of a termination message."""
MAX_FAULT_CHARS: Final = 800
SHA256: Final = r"[0-9a-f]{64}"
_COMMIT: Final = r"[0-9a-f]{40}|[0-9a-f]{64}"

KINDS: Final = ("git", "archive", "configMap")
REFUSED: Final = "Refused"
"""The same order meets the same again: no such branch, a wrong checksum, access denied."""
UNAVAILABLE: Final = "Unavailable"
"""It may work later: the network, a server's trouble, a Secret that is not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOrder:
    """Where a run's code comes from and where the run's own copy of it lies."""

    kind: str
    """Field of spec.code that is set: git, archive or configMap."""
    storage: str
    """The storage's root: an absolute path, or the URI of a bucket."""
    folder: str
    """Folder of the run's copy, below the root."""
    makes_copy: bool
    """Whether this pod reads the source when there is no copy yet; the others wait for it."""
    uri: str = ""
    ref: str = ""
    """Branch, tag or commit, of git."""
    sha256: str = ""
    """Checksum of the archive."""
    path: str = ""
    """The folder in it that becomes the code."""
    secret: str = ""
    """Name of the Secret that is mounted, for messages."""
    expected: str = ""
    """Checksum of the copy that an earlier attempt ran; empty while there was none."""

    def to_json(self) -> str:
        """Return the text for the environment variable."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read an order.

        Raises:
            ContractError: naming the field that is missing, unknown or out of bounds.
        """
        given = read_object(text, max_bytes=64 * 1024, what="code order")
        texts = {
            field.name: given.text(field.name, max_chars=2048)
            for field in fields(cls)
            if field.name not in {"kind", "makes_copy"}
        }
        order = cls(kind=given.choice("kind", KINDS), makes_copy=given.flag("makes_copy"), **texts)
        given.refuse_unknown()
        return order


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenCode:
    """Which code a run has: the same in all its attempts."""

    kind: str
    sha256: str
    """Checksum of the run's copy, which is one tar file."""
    size_bytes: int
    commit: str | None = None
    """What git's ref meant when the run began."""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        return asdict(self)

    @classmethod
    def from_fields(cls, given: Fields) -> Self:
        """Read the JSON object."""
        frozen = cls(
            kind=given.choice("kind", KINDS),
            sha256=given.text("sha256", max_chars=64, pattern=SHA256),
            size_bytes=given.whole("size_bytes"),
            commit=given.optional_text("commit", max_chars=64, pattern=_COMMIT),
        )
        given.refuse_unknown()
        return frozen


@dataclass(frozen=True, slots=True)
class CodeFault:
    """Why a pod cannot have its code."""

    reason: str
    """Refused or Unavailable."""
    message: str
    """Names the field, what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeReport:
    """The fetcher's answer: exactly one of both."""

    frozen: FrozenCode | None = None
    fault: CodeFault | None = None

    def to_json(self) -> str:
        """Return the text for the termination message."""
        if self.fault is not None:
            message = self.fault.message[:MAX_FAULT_CHARS]
            return json.dumps({"fault": {"reason": self.fault.reason, "message": message}})
        return json.dumps({"frozen": None if self.frozen is None else self.frozen.to_wire()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a report, which a pod wrote and nobody need believe.

        Raises:
            ContractError: it is none.
        """
        given = read_object(text, max_bytes=MAX_REPORT_BYTES, what="code report")
        if (fault := given.optional_section("fault")) is not None:
            reason = fault.choice("reason", (REFUSED, UNAVAILABLE))
            message = fault.text("message", max_chars=MAX_FAULT_CHARS)
            return cls(fault=CodeFault(reason, message))
        return cls(frozen=FrozenCode.from_fields(given.section("frozen")))
