"""What is true, as far as we have heard: trimmed caches of jobs, their clusters and their pods.

Facts come from watches, from lists and from our own writes, in any order, so an older version
never replaces a newer one and a deleted UID never comes back.  Nothing here is needed to survive
a restart.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from deepspeed_operator.api.job import JobFacts, JobKey, Uid
from deepspeed_operator.clients.kinds import CLUSTERS, JOBS, PODS, Kind
from deepspeed_operator.decide.observed import ClusterFacts, Observed, PodFacts, RunFacts
from deepspeed_operator.watch.facts import read_cluster, read_job, read_owner, read_pod

MAX_REMEMBERED_DELETIONS: Final = 20_000
"""Deletions are remembered while a list or an answer from before them may still arrive."""

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class _Held(Generic[F]):
    version: int
    key: JobKey
    owner: Uid
    facts: F


class Store:
    """Holds facts by job."""

    def __init__(self) -> None:
        self._held: dict[Uid, _Held[Any]] = {}
        self._jobs: dict[JobKey, Uid] = {}
        self._children: defaultdict[JobKey, set[Uid]] = defaultdict(set)
        self._runs: dict[JobKey, RunFacts] = {}
        self._deleted: OrderedDict[Uid, None] = OrderedDict()

    @property
    def keys(self) -> AbstractSet[JobKey]:
        """Keys of all jobs."""
        return self._jobs.keys()

    def put(self, raw: Mapping[str, Any]) -> JobKey | None:
        """Take in an object.  Return the key of its job if that changed what is known."""
        uid, new = Uid(raw["metadata"]["uid"]), _read(raw)
        if new is None or uid in self._deleted:
            return None
        held = self._held.get(uid)
        if held is not None and held.version >= new.version:
            return None
        if isinstance(new.facts, JobFacts) and not self._place_job(new):
            return None
        if not isinstance(new.facts, JobFacts):
            self._children[new.key].add(uid)
        self._held[uid] = new
        return new.key if held is None or held.facts != new.facts else None

    def _place_job(self, new: _Held[JobFacts]) -> bool:
        """Make this the job of its name, unless a younger one of the same name is known."""
        before = self._jobs.get(new.key)
        if before is not None and before != new.owner:
            if self._held[before].version > new.version:
                return False
            self._forget(before)
        self._jobs[new.key] = new.owner
        return True

    def remove(self, raw: Mapping[str, Any]) -> JobKey | None:
        """Take note that an object is gone.  Return the key of its job if it was known."""
        return self._forget(Uid(raw["metadata"]["uid"]))

    def remove_job(self, key: JobKey) -> None:
        """Take note that the API server has no job of this name."""
        if key in self._jobs:
            self._forget(self._jobs[key])

    def prune(
        self, kind: Kind, seen: AbstractSet[Uid], version: int, namespace: str | None
    ) -> set[JobKey]:
        """Forget objects of a kind that a complete list of this version does not have."""
        facts_type = _FACTS[kind]
        gone = [
            uid
            for uid, held in self._held.items()
            if isinstance(held.facts, facts_type)
            and uid not in seen
            and held.version <= version
            and namespace in (None, held.key.namespace)
        ]
        return {key for uid in gone if (key := self._forget(uid)) is not None}

    def put_run(self, key: JobKey, run: RunFacts) -> None:
        """Take in what a head said about the job's run."""
        if key in self._jobs:
            self._runs[key] = run

    def snapshot(self, key: JobKey) -> tuple[JobFacts, Observed] | None:
        """Return all that is known about a job, in a fixed order; None if there is no such job."""
        uid = self._jobs.get(key)
        if uid is None:
            return None
        job: JobFacts = self._held[uid].facts
        children = [self._held[child] for child in self._children.get(key, ())]
        # Children of a deleted job of the same name may linger for a while.
        own = [held.facts for held in children if held.owner == uid]
        by_age = sorted(own, key=lambda facts: (facts.created, facts.name))
        return job, Observed(
            clusters=tuple(facts for facts in by_age if isinstance(facts, ClusterFacts)),
            pods=tuple(facts for facts in by_age if isinstance(facts, PodFacts)),
            run=self._runs.get(key),
            prerequisites=None,
        )

    def _forget(self, uid: Uid) -> JobKey | None:
        self._deleted[uid] = None
        if len(self._deleted) > MAX_REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)
        held = self._held.pop(uid, None)
        if held is None:
            return None
        if self._jobs.get(held.key) == uid:
            del self._jobs[held.key]
            self._runs.pop(held.key, None)
        self._children[held.key].discard(uid)
        if not self._children[held.key]:
            del self._children[held.key]
        return held.key


_FACTS: Final[Mapping[Kind, type]] = {JOBS: JobFacts, CLUSTERS: ClusterFacts, PODS: PodFacts}


def _read(raw: Mapping[str, Any]) -> _Held[Any] | None:
    """Trim an object of a watched kind; None for what decisions do not look at."""
    # The API server's versions are numbers that grow with every write of any object of a kind.
    version = int(raw["metadata"]["resourceVersion"])
    if raw["kind"] == JOBS.kind:
        job = read_job(raw)
        return _Held(version, job.key, job.uid, job)
    owner = read_owner(raw)
    if owner is None or raw["kind"] not in (CLUSTERS.kind, PODS.kind):
        return None
    facts = read_cluster(raw) if raw["kind"] == CLUSTERS.kind else read_pod(raw)
    return _Held(version, *owner, facts) if facts is not None else None
