"""Lists everything that is watched: once before the first plan, then again from time to time.

Watches are quick but not complete: what is deleted while one is broken is never reported.  A list
forgets such ghosts and makes every job due, so nothing can be overlooked for longer than the
interval.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from deepspeed_operator.api import names
from deepspeed_operator.api.job import Uid
from deepspeed_operator.clients.kinds import CLUSTERS, JOBS, PODS, Kind
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.errors import NotFound, OperatorError
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.store import Store

INTERVAL_S: Final = 600.0
SECOND_LIST_S: Final = 60.0
"""Deletions between the first list and the start of the watches are found by the second one."""
RETRY_S: Final = 5.0

_LISTED: Final[Sequence[tuple[Kind, str | None]]] = (
    (JOBS, None),
    (CLUSTERS, names.SELECTOR),
    (PODS, names.SELECTOR),
)

log = logging.getLogger(__name__)


class Relister:
    """Keeps the store complete.  No namespaces means all of them."""

    def __init__(
        self, kube: KubeClient, store: Store, inbox: Inbox, namespaces: Sequence[str] = ()
    ) -> None:
        self._kube = kube
        self._store = store
        self._inbox = inbox
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self.is_complete = asyncio.Event()
        """Set when everything has been listed once."""

    async def run(self) -> None:
        """List for ever."""
        pause_s = SECOND_LIST_S
        while True:
            try:
                await self.list_all()
            except OperatorError as error:
                log.warning("listing failed", extra={"why": str(error), "again_in_s": RETRY_S})
                await asyncio.sleep(RETRY_S)
                continue
            await asyncio.sleep(pause_s * random.uniform(1, 1.2))  # noqa: S311  spreads the load
            pause_s = INTERVAL_S

    async def list_all(self) -> None:
        """List every kind once, forget what is gone and make every job due."""
        for kind, selector in _LISTED:
            for namespace in self._namespaces:
                await self._list(kind, namespace, selector)
        self.is_complete.set()
        for key in tuple(self._store.keys):
            self._inbox.add(key)

    async def _list(self, kind: Kind, namespace: str | None, selector: str | None) -> None:
        seen: set[Uid] = set()
        version = 0
        try:
            async for page in self._kube.pages(kind, namespace, selector):
                version = page.resource_version
                for item in page.items:
                    seen.add(Uid(item["metadata"]["uid"]))
                    self._store.put(item)
        except NotFound:
            if kind is not CLUSTERS:
                raise
            # KubeRay is not installed yet; each job says so in its status.
            return
        for key in self._store.prune(kind, seen, version, namespace):
            self._inbox.add(key)


async def announce_kuberay(kube: KubeClient, appeared: asyncio.Event) -> None:
    """Set the event when KubeRay is installed after our start, and return.

    kopf hears of a new CRD too, but looks at what is served before the API server serves it; with
    a real one it missed RayClusters in two of three trials.
    """
    was_missing = False
    while True:
        try:
            if await kube.serves(CLUSTERS):
                break
            was_missing = True
        except OperatorError as error:
            log.warning("discovery failed", extra={"why": str(error), "again_in_s": RETRY_S})
        await asyncio.sleep(RETRY_S)
    if was_missing:
        log.info("KubeRay appeared")
        appeared.set()
