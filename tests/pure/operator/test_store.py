"""The store: what is newer wins, what is gone stays gone, and each job sees its own children."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from deepspeed_operator.api.job import JobKey, Uid
from deepspeed_operator.clients.kinds import CLUSTERS, JOBS, PODS
from deepspeed_operator.decide.observed import Observed, RunFacts, RunState
from deepspeed_operator.watch.store import Store
from tests.support.raw import JOB_UID, raw_cluster, raw_job, raw_pod

KEY = JobKey("team-a", "demo")
RUN = RunFacts("run-a1", Uid("uid-of-head"), RunState.RUNNING, None, None, None)


def a_store(*raws: object) -> Store:
    store = Store()
    for raw in raws:
        store.put(raw)  # type: ignore[arg-type]
    return store


def observed_of(store: Store) -> Observed:
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    return snapshot[1]


def test_nothing_is_known_of_an_unknown_job() -> None:
    assert a_store(raw_cluster(), raw_pod()).snapshot(KEY) is None


def test_a_snapshot_has_the_job_and_its_children() -> None:
    store = a_store(raw_pod(), raw_cluster(), raw_job())
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    job, observed = snapshot
    assert (job.uid, job.resource_version) == (JOB_UID, "10")
    assert [cluster.name for cluster in observed.clusters] == ["demo-1"]
    assert [pod.name for pod in observed.pods] == ["demo-1-head"]


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = a_store(raw_job(version=12, status={"phase": "Running"}))
    assert store.put(raw_job(version=11)) is None
    assert store.put(raw_job(version=12)) is None
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    assert snapshot[0].status == {"phase": "Running"}


def test_versions_are_numbers_and_not_texts() -> None:
    store = a_store(raw_job(version=9))
    assert store.put(raw_job(version=10)) == KEY


def test_a_change_that_decisions_do_not_read_wakes_nobody() -> None:
    store = a_store(raw_job(), raw_pod(version=10))
    assert store.put(raw_pod(version=11)) is None
    assert store.put(raw_pod(version=12, status={"phase": "Failed"})) == KEY


def test_what_was_deleted_does_not_come_back() -> None:
    store = a_store(raw_job(), raw_cluster())
    assert store.remove(raw_cluster()) == KEY
    assert store.put(raw_cluster(version=99)) is None
    assert observed_of(store).clusters == ()


def test_a_deletion_that_is_heard_first_counts_too() -> None:
    store = a_store(raw_job())
    assert store.remove(raw_cluster()) is None
    assert store.put(raw_cluster()) is None


def test_a_younger_job_of_the_same_name_replaces_the_older_one_and_its_run() -> None:
    store = a_store(raw_job(), raw_cluster())
    store.put_run(KEY, RUN)
    assert store.put(raw_job(uid="uid-of-the-next", version=20)) == KEY
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    assert snapshot[0].uid == "uid-of-the-next"
    assert snapshot[1] == Observed()


def test_the_late_deletion_of_the_older_job_leaves_the_younger_one() -> None:
    store = a_store(raw_job(), raw_job(uid="uid-of-the-next", version=20))
    store.remove(raw_job(version=19))
    assert store.snapshot(KEY) is not None


def test_a_late_word_from_the_older_job_is_not_taken_for_the_younger_one() -> None:
    store = a_store(raw_job(uid="uid-of-the-next", version=20))
    assert store.put(raw_job(version=15)) is None
    snapshot = store.snapshot(KEY)
    assert snapshot is not None
    assert snapshot[0].uid == "uid-of-the-next"


def test_children_of_a_deleted_job_of_the_same_name_are_not_taken_over() -> None:
    store = a_store(raw_job(), raw_cluster(job_uid="uid-of-the-dead"), raw_pod(job_uid="dead"))
    assert observed_of(store) == Observed()


def test_a_job_that_is_gone_takes_its_run_along() -> None:
    store = a_store(raw_job())
    store.put_run(KEY, RUN)
    assert observed_of(store).run == RUN
    store.remove(raw_job())
    store.put_run(KEY, RUN)
    assert store.snapshot(KEY) is None
    assert not store.keys


def test_a_list_forgets_what_it_does_not_have() -> None:
    store = a_store(raw_job(), raw_pod("gone"), raw_pod("here"), raw_cluster())
    assert store.prune(PODS, {Uid("uid-of-here")}, 50, None) == {KEY}
    assert [pod.name for pod in observed_of(store).pods] == ["here"]
    assert len(observed_of(store).clusters) == 1


def test_a_list_spares_what_is_younger_than_itself() -> None:
    store = a_store(raw_job(), raw_cluster(version=60))
    assert store.prune(CLUSTERS, set(), 50, None) == set()
    assert len(observed_of(store).clusters) == 1


def test_a_list_of_one_namespace_says_nothing_about_another() -> None:
    store = a_store(raw_job())
    assert store.prune(JOBS, set(), 50, "team-b") == set()
    assert store.prune(JOBS, set(), 50, "team-a") == {KEY}


def test_objects_of_nobody_and_of_other_kinds_are_left_aside() -> None:
    stray = raw_cluster()
    stray["metadata"]["labels"] = {}
    secret = {**raw_cluster(), "kind": "Secret"}
    store = a_store(raw_job())
    assert store.put(stray) is None
    assert store.put(secret) is None
    assert observed_of(store) == Observed()


@given(st.randoms(use_true_random=False))
def test_the_order_in_which_news_arrives_does_not_matter(chance: random.Random) -> None:
    """The last version of everything is known at the end, however the news was mixed."""
    news = [raw_job(version=version, status={"n": version}) for version in (10, 20, 30)]
    news += [raw_cluster(version=version) for version in (11, 12)]
    for number, version in itertools.product((1, 2), (13, 14)):
        phase = {"phase": f"phase-{version}"}
        news.append(raw_pod(f"pod-{number}", version=version, status=phase))
    expected = a_store(*news).snapshot(KEY)
    mixed = news + chance.sample(news, k=4)
    chance.shuffle(mixed)
    store = a_store(*mixed)
    assert store.snapshot(KEY) == expected
    assert store.put(news[0]) is None
