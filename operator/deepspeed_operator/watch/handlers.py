"""kopf's part: it watches, and each handler trims, puts and adds a key.

Only low-level event handlers are used: kopf then writes nothing, neither annotations nor
finalizers.  It never repeats a failed handler, so a handler does nothing that could fail for a
while.  Everything else about kopf (events, peering, admission) is switched off or left alone.
"""

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import kopf
from kopf._core.engines.peering import Identity
from typing_extensions import override

from deepspeed_operator.api import names
from deepspeed_operator.clients.access import load_access
from deepspeed_operator.clients.kinds import CLUSTERS, JOBS, PODS
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.store import Store

CHUNK_SIZE: Final = 500
IDENTITY: Final = Identity(names.FIELD_OWNER)
REQUEST_TIMEOUT_S: Final = 30
CONNECT_TIMEOUT_S: Final = 10
EXIT_TIMEOUT_S: Final = 0.2
"""Handlers only put things into memory, so there is nothing to wait for at the end."""


class _AllTasks(Collection["asyncio.Task[Any]"]):
    """Tasks that kopf need not end: all that are not its own."""

    @override
    def __contains__(self, task: object) -> bool:
        return True

    @override
    def __iter__(self) -> Iterator["asyncio.Task[Any]"]:
        return iter(())

    @override
    def __len__(self) -> int:
        return 0


class _Backoffs:
    """Pauses between kopf's tries: they never end, as ending would end the whole process."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 4, 8)
        while True:
            yield random.uniform(8, 16)  # noqa: S311  spreads the load, no secret


class _NoDiffs(kopf.DiffBaseStorage):
    """What kopf compares of two events of an object: nothing, as only handlers of changes ask.

    By default it copies every object of every event twice, a quarter of a busy operator's time.
    """

    @override
    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    @override
    def fetch(self, *, body: kopf.Body) -> None:
        return None

    @override
    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep nothing."""


def build_settings(namespaces: Sequence[str]) -> kopf.OperatorSettings:
    """Return kopf's settings: an informer and nothing else."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.queueing.exit_timeout = EXIT_TIMEOUT_S
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.scanning.disabled = bool(namespaces)
    settings.watching.chunk_size = CHUNK_SIZE
    settings.networking.request_timeout = REQUEST_TIMEOUT_S
    settings.networking.connect_timeout = CONNECT_TIMEOUT_S
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.label_selectors[names.RAY_GROUP, names.RAY_VERSION, CLUSTERS.plural] = (
        names.SELECTOR
    )
    settings.watching.label_selectors["", "v1", PODS.plural] = names.SELECTOR
    return settings


def build_registry(store: Store, inbox: Inbox) -> kopf.OperatorRegistry:
    """Return kopf's handlers for the three kinds that are watched."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(id="log_in", registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        access = await load_access()
        return kopf.ConnectionInfo(
            server=access.server,
            ca_path=access.ca_file,
            insecure=access.insecure,
            scheme=access.scheme,
            token=access.token,
            certificate_path=access.cert_file,
            private_key_path=access.key_file,
        )

    @kopf.on.event(names.GROUP, names.VERSION, JOBS.plural, registry=registry)
    @kopf.on.event(names.RAY_GROUP, names.RAY_VERSION, CLUSTERS.plural, registry=registry)
    @kopf.on.event("", "v1", PODS.plural, registry=registry)
    async def take_note(event: kopf.RawEvent, **_: Any) -> None:
        raw = dict(event["object"])
        key = store.remove(raw) if event["type"] == "DELETED" else store.put(raw)
        if key is not None:
            inbox.add(key)

    return registry


async def watch(store: Store, inbox: Inbox, namespaces: Sequence[str], anew: asyncio.Event) -> None:
    """Watch until SIGTERM or SIGINT.  No namespaces means all; begins anew when that is set."""
    while True:
        tasks = await kopf.spawn_tasks(
            registry=build_registry(store, inbox),
            settings=build_settings(namespaces),
            # Only peering uses it; by default kopf looks for the user's name, and a UID has none.
            identity=IDENTITY,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=anew,
        )
        # By default kopf would wait for, and then end, every task that is younger than itself.
        await kopf.run_tasks(tasks, ignored=_AllTasks())
        if not anew.is_set():
            return
        anew.clear()
