"""The operator dies right after any of its writes: nothing is lost and nothing is done twice.

An undisturbed job (its first run fails, its second succeeds) gives the list of writes, from the
API server's audit log, and the submissions to its head. Then as many jobs, each with the operator
killed by SIGKILL after one of them: the API server or the head has done what was asked, and the
operator never hears of it. Real here: API server, controllers, scheduler, KubeRay, the operator
with its chart's rights. Played: kubelets (support/hands.py) and head (support/head.py); between
operator and API server is a proxy that passes everything on (support/proxy.py).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster
from tests.support.audit import AuditLog
from tests.support.hands import Hands
from tests.support.installed import USER
from tests.support.lane import Lane, Outcome, open_lane
from tests.support.report import publish

LANES = 4
KUBERAY = "devcluster:kuberay"


@dataclass(frozen=True, slots=True)
class Point:
    """Where the operator dies: after its write or its submission of this number."""

    what: str
    write: int = 0
    submission: int = 0

    @property
    def job(self) -> str:
        return f"write-{self.write:02}" if self.write else f"submission-{self.submission:02}"


@dataclass(frozen=True, slots=True)
class Died:
    """A job whose operator was killed at a point."""

    point: Point
    kills: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Made:
    """What was made in a lane, by how many jobs."""

    jobs: int
    rayclusters: int
    secrets: int
    pods: int


@pytest.fixture(scope="module")
def hands(cluster: Cluster) -> Iterator[Hands]:
    with Hands(cluster) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Reference:
    """The undisturbed job, and after what its operator can die."""

    outcome: Outcome
    points: Sequence[Point]


@pytest.fixture(scope="module")
def folder(chart: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lanes")


@pytest.fixture(scope="module")
def reference(hands: Hands, folder: Path, audit: AuditLog) -> Reference:
    with open_lane(hands, folder / "0") as lane:
        mark = audit.end()
        outcome = lane.tell(lane.live_through("undisturbed"))
        done = [c for c in audit.writes_by(USER, since=mark) if c.namespace == lane.namespace]
    assert [call for call in done if call.status >= 400] == []
    points = [
        Point(f"{number}. {call.verb} {call.kind}", write=number)
        for number, call in enumerate(done, start=1)
    ]
    submissions = range(1, len(outcome.submissions) + 1)
    points += [Point(f"submission {number}", submission=number) for number in submissions]
    return Reference(outcome, points)


@pytest.fixture(scope="module")
def trials(
    hands: Hands, folder: Path, audit: AuditLog, reference: Reference, pytestconfig: pytest.Config
) -> tuple[list[Died], list[Made]]:
    """Every point, tried once, in lanes side by side."""

    def run_lane(number: int) -> tuple[list[Died], Made]:
        own = reference.points[number - 1 :: LANES]
        with open_lane(hands, folder / str(number)) as lane:
            return die_at(lane, own), count_made(audit, lane.namespace)

    with ThreadPoolExecutor(LANES) as pool:
        lanes = list(pool.map(run_lane, range(1, LANES + 1)))
    died = sorted((d for found, _ in lanes for d in found), key=lambda d: d.point.job)
    publish(pytestconfig, "crash-points.md", render(died, reference))
    return died, [made for _, made in lanes]


def render(died: Sequence[Died], reference: Reference) -> str:
    """How often the operator died, after what, and which Events were never told for it."""
    lines = [f"The operator was killed {sum(d.kills for d in died)} times, once after each of:"]
    for each in died:
        lost = Counter(reference.outcome.events) - Counter(each.outcome.events)
        news = ", ".join(text.partition(":")[0] for text in lost)
        lines.append(f"- {each.point.what}" + (f" (Event never told: {news})" if news else ""))
    return "\n".join(lines)


def die_at(lane: Lane, points: Sequence[Point]) -> list[Died]:
    """Kill the lane's operator at each point of a job of its own."""
    tried = []
    for point in points:
        before = lane.kills
        job = lane.live_through(point.job, write=point.write, submission=point.submission)
        tried.append((point, lane.kills - before, job))
    # Another job's whole life is time enough for an operator to do something twice.
    lane.live_through("last")
    return [Died(point, kills, lane.tell(job)) for point, kills, job in tried]


def count_made(audit: AuditLog, namespace: str) -> Made:
    """What the audit log says was made in a namespace."""

    def made(user: str) -> Counter[str]:
        calls = audit.writes_by(user)
        return Counter(c.kind for c in calls if (c.namespace, c.status) == (namespace, 201))

    ours, kuberays = made(USER), made(KUBERAY)
    jobs = sum(1 for c in audit.calls_of("devcluster-admin")
               if (c.namespace, c.kind, c.status) == (namespace, "deepspeedjobs", 201))  # fmt: skip
    return Made(jobs, ours["rayclusters"], ours["secrets"], kuberays["pods"])


def test_every_write_and_every_submission_is_a_point(reference: Reference) -> None:
    kinds = {point.what.partition(" ")[2] for point in reference.points if point.write}
    assert kinds == {
        "patch deepspeedjobs/status",
        "create secrets",
        "patch rayclusters",
        "delete rayclusters",
        "create events",
    }
    assert reference.outcome.submissions == {"CLUSTER-a1": 1, "CLUSTER-a2": 1}
    assert [each["state"] for each in reference.outcome.status["attempts"]] == [
        "Failed",
        "Succeeded",
    ]


def test_the_operator_died_exactly_once_at_each_point(
    reference: Reference, trials: tuple[list[Died], list[Made]]
) -> None:
    died, _ = trials
    assert {d.point for d in died} == set(reference.points)
    assert [d.point for d in died if d.kills != 1] == []


@pytest.mark.parametrize("part", ["status", "submissions", "children"])
def test_what_is_left_is_what_an_undisturbed_job_leaves(
    reference: Reference, trials: tuple[list[Died], list[Made]], part: str
) -> None:
    died, _ = trials
    expected = getattr(reference.outcome, part)
    different: dict[str, Any] = {
        d.point.what: found for d in died if (found := getattr(d.outcome, part)) != expected
    }
    assert different == {}


def test_no_event_is_told_twice_or_invented(
    reference: Reference, trials: tuple[list[Died], list[Made]]
) -> None:
    # One that dies between a status and its Event never tells it: an Event is news, no record.
    died, _ = trials
    surplus = {
        d.point.what: more
        for d in died
        if (more := Counter(d.outcome.events) - Counter(reference.outcome.events))
    }
    assert surplus == {}


def test_each_child_was_made_once(trials: tuple[list[Died], list[Made]]) -> None:
    _, lanes = trials
    for made in lanes:
        assert (made.rayclusters, made.secrets, made.pods) == (made.jobs, made.jobs, 2 * made.jobs)
