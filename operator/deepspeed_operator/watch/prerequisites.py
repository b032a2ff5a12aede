"""Answers what a pass wants to know beyond the caches, by asking the API server when it matters.

ConfigMaps, claims and nodes are not watched: watching them would cost memory and rights in every
namespace, and a job needs them only until its attempt has opened.  Nodes and discovery are the
same for all jobs, so their answers are shared for a few seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Generic, TypeVar

from deepspeed_operator.clients.kinds import (
    CLAIMS,
    CLUSTERS,
    CONFIG_MAPS,
    NODES,
    Kind,
    Object,
    read_count,
)
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.decide.observed import ClaimFacts, Prerequisites, Wanted
from deepspeed_operator.errors import NotFound

SHARED_FOR_S: Final = 5.0

T = TypeVar("T")


class PrerequisiteReader:
    """Asks the API server."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._kuberay = _Shared(lambda: kube.serves(CLUSTERS))
        self._devices: dict[str, _Shared[int]] = {}

    async def fetch(self, namespace: str, wanted: Wanted) -> Prerequisites:
        """Return the answers to what a job of this namespace wants to know."""
        claims = await self._find_all(CLAIMS, namespace, wanted.claims)
        config_maps = await self._find_all(CONFIG_MAPS, namespace, wanted.config_maps)
        return Prerequisites(
            kuberay_served=await self._kuberay.get() if wanted.kuberay else None,
            config_maps={
                name: None if raw is None else raw.get("data", {})
                for name, raw in config_maps.items()
            },
            claims={
                name: None if raw is None else _read_claim(raw) for name, raw in claims.items()
            },
            largest_device_count=await self._count(wanted.device),
        )

    async def _find_all(
        self, kind: Kind, namespace: str, names: Collection[str]
    ) -> Mapping[str, Object | None]:
        return {name: await self._find(kind, namespace, name) for name in sorted(names)}

    async def _find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        try:
            return await self._kube.get(kind, namespace, name)
        except NotFound:
            return None

    async def _count(self, device: str | None) -> int | None:
        if device is None:
            return None
        if device not in self._devices:
            self._devices[device] = _Shared(lambda: self._find_largest(device))
        return await self._devices[device].get()

    async def _find_largest(self, device: str) -> int:
        largest = 0
        async for page in self._kube.pages(NODES):
            offers = (node.get("status", {}).get("allocatable", {}) for node in page.items)
            counts = (read_count(offer.get(device, 0)) for offer in offers)
            largest = max(largest, max(counts, default=0))
        return largest


class _Shared(Generic[T]):
    """An answer that all who ask within a few seconds share; only one of them does the asking."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._answer: tuple[float, T] | None = None

    async def get(self) -> T:
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if self._answer is None or clock() - self._answer[0] > SHARED_FOR_S:
                answer = await self._ask()
                self._answer = clock(), answer
            return self._answer[1]


def _read_claim(raw: Object) -> ClaimFacts:
    return ClaimFacts(
        access_modes=tuple(raw.get("spec", {}).get("accessModes", ())),
        phase=raw.get("status", {}).get("phase", "Pending"),
    )
