"""What a user asked of the API server, read from its audit log.

    mark = audit.end()
    ...
    for call in audit.calls_of(user, since=mark): ...

The log is written before the answer is sent, so what a client has seen done is in the log.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READS = frozenset({"get", "list", "watch"})
LONG_RUNNING = "ResponseStarted"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asked for what, and the answer's HTTP status."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    status: int

    @property
    def is_write(self) -> bool:
        return self.verb not in READS

    @property
    def kind(self) -> str:
        """Resource and subresource as roles name them: rayclusters, deepspeedjobs/status."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The audit log of a cluster."""

    path: Path

    def end(self) -> int:
        """The present end, to read from later."""
        return self.path.stat().st_size

    def calls_of(self, user: str, *, since: int = 0) -> list[Call]:
        """Every request of this user on resources, in order."""
        return [call for call in self._calls(since) if call.user == user]

    def writes_by(self, user: str, *, since: int = 0) -> list[Call]:
        """Every request of this user that changed something, or tried to, in order."""
        return [call for call in self.calls_of(user, since=since) if call.is_write]

    def _calls(self, since: int) -> Iterator[Call]:
        with self.path.open("rb") as file:
            file.seek(since)
            for line in file:
                # The last line may be half written; it is not ours to read yet.
                if line.endswith(b"\n"):
                    event = json.loads(line)
                    if "objectRef" in event and _counts(event):
                        yield _read(event)


def _counts(event: dict[str, Any]) -> bool:
    """A watch is counted when it starts, everything else when it ends."""
    return bool(
        event["stage"] == (LONG_RUNNING if event["verb"] == "watch" else "ResponseComplete")
    )


def _read(event: dict[str, Any]) -> Call:
    target = event["objectRef"]
    return Call(
        user=event["user"]["username"],
        verb=event["verb"],
        group=target.get("apiGroup", ""),
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        status=event.get("responseStatus", {}).get("code", 0),
    )
