"""An archive from a web server, a bucket or the job's own storage, checked against its checksum."""

import base64
import hashlib
import http.client
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from typing_extensions import override

from deepspeed_trainer.contract import CodeOrder
from deepspeed_trainer.source.buckets import open_bucket, open_storage
from deepspeed_trainer.source.faults import CodeError, CodeRefused, CodeUnavailable, clean
from deepspeed_trainer.source.pack import copy_archive
from deepspeed_trainer.source.secret import Secret

_FIELD: Final = "spec.code.archive"
_STORAGE: Final = "storage://"
_TIMEOUT_S: Final = 60
_FOR_NOW: Final = frozenset({408, 425, 429})


def fetch_copy(order: CodeOrder, secret: Secret, scratch: Path, target: Path) -> None:
    """Write the copy of an archive.

    Raises:
        CodeError: naming the field.
    """
    archive = scratch / "archive"
    found = _bring(order, secret, archive)
    if found != order.sha256:
        raise CodeRefused(
            f"{_FIELD}.sha256: the archive's checksum is {found}, not {order.sha256}: it is not"
            " the one that was meant"
        )
    copy_archive(archive, target, field=_FIELD, below=order.path)


def _bring(order: CodeOrder, secret: Secret, archive: Path) -> str:
    """Make the archive a local file of our own; returns its checksum."""
    if order.uri.startswith("https://"):
        return _download(order.uri, secret, archive)
    try:
        if order.uri.startswith(_STORAGE):
            path = order.uri.removeprefix(_STORAGE)
            return _bring_from_storage(order.storage, path, archive)
        return _bring_from_bucket(order.uri, secret, archive)
    except FileNotFoundError as error:
        raise CodeRefused(f"{_FIELD}.uri: there is no {order.uri}") from error


def _bring_from_bucket(uri: str, secret: Secret, archive: Path) -> str:
    from obstore.exceptions import (  # noqa: PLC0415  volumes need no such package
        PermissionDeniedError,
        UnauthenticatedError,
    )

    folder, _, name = uri.rpartition("/")
    try:
        return open_bucket(folder, secret).fetch(name, archive)
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(error.__cause__, PermissionDeniedError | UnauthenticatedError):
            raise CodeRefused(
                f"{_FIELD}.secretRef: {folder} denies access: it takes the variables that"
                " storage.secretRef takes"
            ) from error
        raise


def _bring_from_storage(root: str, path: str, archive: Path) -> str:
    store = open_storage(root)
    place = store.place_of(path)
    if place is None:
        return store.fetch(path, archive)
    # A copy of our own: what lies on a volume may change between two looks at it.
    with place.open("rb") as source:
        return _write(source, archive)


def _download(url: str, secret: Secret, archive: Path) -> str:
    request = urllib.request.Request(url)  # noqa: S310  https, see above
    login = secret.login()
    if login is not None:
        token = base64.b64encode(":".join(login).encode()).decode()
        # Not for the host that a redirect leads to.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    bundle = secret.path("ca.crt")
    context = ssl.create_default_context(cafile=None if bundle is None else str(bundle))
    opener = urllib.request.build_opener(_OnlyHttps, urllib.request.HTTPSHandler(context=context))
    host = urlsplit(url).netloc
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return _write(answer, archive)
    except urllib.error.HTTPError as error:
        error.close()  # it is the answer too
        raise _read_answer(error.code, host) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise CodeRefused(
                f"{_FIELD}.secretRef: {host}: {clean(str(error.reason))}; the key ca.crt takes a"
                " private certificate"
            ) from error
        raise CodeUnavailable(f"{_FIELD}.uri: {host}: {clean(str(error.reason))}") from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise CodeUnavailable(f"{_FIELD}.uri: {host}: {clean(str(error))}") from error


def _read_answer(status: int, host: str) -> CodeError:
    if status in {401, 403}:
        return CodeRefused(
            f"{_FIELD}.secretRef: {host} answers {status}: it takes the keys username and"
            " password, or token"
        )
    if 400 <= status < 500 and status not in _FOR_NOW:
        return CodeRefused(f"{_FIELD}.uri: {host} answers {status}")
    return CodeUnavailable(f"{_FIELD}.uri: {host} answers {status}")


def _write(source: IO[bytes], target: Path) -> str:
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not out of https."""

    @override
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            fp.close()
            raise CodeRefused(f"{_FIELD}.uri: the server leads to an address without https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
