"""A small client of the API server: read, create, patch; with the admin's certificate.

Only what bringing up a cluster needs, over the standard library; starting kubectl some thirty
times would take longer than the cluster. Objects are created, not applied: a new cluster is
empty, and for KubeRay's large resources that costs the API server little more than half as much.
"""

import base64
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devcluster.errors import Refused

# Four large CRDs at once keep the API server of a busy machine occupied for half a minute.
TIMEOUT_S = 120
PATIENCE_S = 180.0
PAUSE_S = 0.5

# The cluster-wide kinds that we write.
COLLECTIONS = {
    "Namespace": "namespaces",
    "Node": "nodes",
    "PersistentVolume": "persistentvolumes",
    "StorageClass": "storageclasses",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "CustomResourceDefinition": "customresourcedefinitions",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


class ApiClient:
    """Speaks to one API server as the user of a kubeconfig."""

    def __init__(self, kubeconfig: Path, server: str = "") -> None:
        """Read server, authority and client certificate from a kubeconfig of ours.

        `server` is another one of the same authority to speak to.
        """
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = server or cluster["server"]
        address = urlsplit(self.server)
        self._host, self._port = address.hostname or "", address.port or 443
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)

    def request(self, method: str, path: str, body: Any = None, content: str = "") -> str:
        """The body of the answer. Raises: Refused on an error status, OSError without an answer."""
        connection = http.client.HTTPSConnection(
            self._host, self._port, context=self._tls, timeout=TIMEOUT_S
        )
        try:
            headers = {"Content-Type": content} if content else {}
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: broken answer: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, f"{method} {path}: {answer.status}: {text[:500]}")
        return text

    def get(self, path: str) -> Any:
        """Fetch an object or a list."""
        return json.loads(self.request("GET", path))

    def create(
        self,
        manifest: dict[str, Any],
        *,
        check: Callable[[], None] = lambda: None,
        within_s: float = PATIENCE_S,
    ) -> None:
        """Create a cluster-wide object; a server that is too busy to answer is asked again.

        `check` is called before every request and may raise. Raises: as `request`.
        """
        end = time.monotonic() + within_s
        is_first = True
        while True:
            check()
            try:
                self.request("POST", collection_of(manifest), manifest, "application/json")
            except (Refused, TimeoutError, ConnectionError) as error:
                if isinstance(error, Refused) and error.status == 409 and not is_first:
                    return  # an earlier request had arrived; only its answer had not
                if not is_transient(error) or time.monotonic() > end:
                    raise
            else:
                return
            is_first = False
            time.sleep(PAUSE_S)

    def merge(self, path: str, patch: dict[str, Any]) -> None:
        """Change fields of an object; null removes one."""
        self.request("PATCH", path, patch, "application/merge-patch+json")

    def says_ok(self, path: str) -> bool:
        """Whether the server answers this health path with success."""
        try:
            self.request("GET", path)
        except (OSError, Refused):
            return False
        return True


def is_transient(error: Exception) -> bool:
    """Whether asking again may help: the server was busy, or its answer was lost on the way."""
    if isinstance(error, Refused):
        return error.status == 429 or error.status >= 500
    return isinstance(error, TimeoutError | ConnectionError) and not isinstance(
        error, ConnectionRefusedError
    )


def collection_of(manifest: dict[str, Any]) -> str:
    """The path to which a cluster-wide object of this kind is posted."""
    version = manifest["apiVersion"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    return f"{root}/{COLLECTIONS[manifest['kind']]}"
