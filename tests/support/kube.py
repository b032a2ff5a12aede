"""kubectl for tests: objects in and out as dicts, refusals as an exception with the server's words.

kube = Kube(cluster.environment)
kube.apply({"apiVersion": "v1", "kind": "ConfigMap", ...})
kube.get("configmap", "a-name", namespace)
"""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from devcluster.cluster import Cluster

Object = dict[str, Any]
TIMEOUT_S = 180
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Refused(AssertionError):
    """kubectl failed; the text is what it printed."""


class Kube:
    """kubectl on one cluster; `user` is impersonated when given."""

    def __init__(self, environment: Mapping[str, str], user: str | None = None) -> None:
        self._environment = {**os.environ, **environment}
        self._user = user

    def as_user(self, user: str) -> "Kube":
        """The same cluster with somebody else's rights."""
        return Kube(self._environment, user)

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed. Raises: Refused."""
        whose = [f"--as={self._user}"] if self._user else []
        command = ["kubectl", *whose, *words]
        done = subprocess.run(
            command, env=self._environment, input=stdin, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Refused(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> list[Object]:
        """Create or update by server-side apply; returns what the server made of them."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        words = ("apply", "--server-side", "--force-conflicts", "-o", "json", "-f", "-")
        return _items(json.loads(self.run(*words, stdin=json.dumps(document))))

    def apply_file(self, path: str, namespace: str) -> None:
        """What a user does: kubectl apply -f."""
        self.run("apply", "-n", namespace, "-f", path)

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Read an object. Raises: Refused when it is not there."""
        found: Object = json.loads(self.run("get", kind, name, "-o", "json", *_within(namespace)))
        return found

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """Read an object that may not be there."""
        words = ("get", kind, name, "-o", "json", "--ignore-not-found", *_within(namespace))
        text = self.run(*words)
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        """All objects of a kind; without a namespace, those of all namespaces."""
        within = _within(namespace) or ("--all-namespaces",)
        text = self.run("get", kind, "-o", "json", "--selector", selector, *within)
        return _items(json.loads(text))

    def patch(self, kind: str, name: str, patch: Any, namespace: str, sub: str = "") -> Object:
        """Change fields by a merge patch; `sub` is a subresource, for instance status."""
        words = ["patch", kind, name, "--type=merge", "-o", "json", "-n", namespace]
        words += ["--subresource", sub] if sub else []
        changed: Object = json.loads(self.run(*words, "--patch", json.dumps(patch)))
        return changed

    def delete(self, kind: str, name: str, namespace: str | None = None, *more: str) -> None:
        """Delete an object and wait until it is gone; it may be gone already."""
        self.run("delete", kind, name, "--ignore-not-found", *_within(namespace), *more)

    @contextmanager
    def namespace(self, stem: str) -> Iterator[str]:
        """A namespace of its own, under restricted pod security; deleted at the end."""
        name = f"{re.sub('[^a-z0-9]+', '-', stem.lower())[:50].strip('-')}-{secrets.token_hex(2)}"
        metadata = {"name": name, "labels": RESTRICTED}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        try:
            yield name
        finally:
            self.delete("namespace", name)


def kube_of(cluster: Cluster) -> Kube:
    """kubectl as the administrator of a dev cluster."""
    return Kube(cluster.environment)


def condition(job: Mapping[str, Any], kind: str) -> Object:
    """The condition of this type. Raises: LookupError when the object has none."""
    for found in job.get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return dict(found)
    raise LookupError(f"no condition {kind}")


def _within(namespace: str | None) -> tuple[str, ...]:
    return ("-n", namespace) if namespace else ()


def _items(document: Object) -> list[Object]:
    return document["items"] if document["kind"] == "List" else [document]
