"""Tokens of Ray clusters: derived, never stored by us, never logged.

A token is an HMAC of the operator's own key over the job's UID and the cluster's name, so the
operator needs no right to read Secrets of its users.  The key is made once, at the first start,
and lies in the operator's namespace.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final

from deepspeed_operator.api import names
from deepspeed_operator.clients.kinds import SECRETS, Object
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.errors import Conflict, Invalid, NotFound

KEY_SECRET: Final = "deepspeed-operator-key"  # noqa: S105  a name, not a secret
KEY_FIELD: Final = "key"
KEY_BYTES: Final = 32


class Tokens:
    """Derives tokens from one key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def derive(self, job_uid: str, cluster: str) -> str:
        """Return the token of a job's cluster: the same for every start of the operator."""
        return hmac.new(self._key, f"{job_uid}/{cluster}".encode(), hashlib.sha256).hexdigest()


async def open_tokens(kube: KubeClient, namespace: str) -> Tokens:
    """Read the operator's key, or make it if there is none.

    Raises:
        Invalid: the Secret exists but holds no key.
    """
    try:
        found = await kube.get(SECRETS, namespace, KEY_SECRET)
    except NotFound:
        found = await _make_key(kube, namespace)
    return Tokens(_read_key(found))


async def _make_key(kube: KubeClient, namespace: str) -> Object:
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    body = {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": {
            "name": KEY_SECRET,
            "namespace": namespace,
            "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY},
        },
        "data": {KEY_FIELD: key},
    }
    try:
        return await kube.create(body)
    except Conflict:
        # Another replica was faster; its key is the key.
        return await kube.get(SECRETS, namespace, KEY_SECRET)


def _read_key(secret: Object) -> bytes:
    try:
        key = base64.b64decode(secret["data"][KEY_FIELD], validate=True)
    except (KeyError, TypeError, binascii.Error):
        key = b""
    if len(key) < KEY_BYTES:
        raise Invalid(
            422,
            f"Secret {KEY_SECRET} holds no key of {KEY_BYTES} bytes in its field {KEY_FIELD};"
            " delete it when no job runs, and the next start of the operator makes a new one",
        )
    return key
