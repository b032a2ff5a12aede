import ipaddress
import itertools
import multiprocessing
import os
from pathlib import Path

import pytest

from devcluster import slots
from devcluster.errors import WrongUse
from devcluster.slots import PORTS, SLOTS, Place


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "state_dir", lambda: tmp_path)
    monkeypatch.setattr(slots, "_is_free", lambda _: True)


def test_a_name_keeps_its_slot_until_it_is_given_back() -> None:
    first = slots.take("demo")
    assert slots.take("demo") == first == slots.find("demo")
    assert slots.take("test") != first
    slots.give_back("demo")
    assert slots.find("demo") is None
    assert slots.take("other") == first


def test_the_last_slot_but_one_is_an_error_that_names_the_clusters() -> None:
    for number in range(SLOTS):
        slots.take(f"c{number}")
    with pytest.raises(WrongUse, match=r"c15.*down --name"):
        slots.take("one-too-many")


def test_a_slot_that_something_else_uses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_is_free", lambda place: place.slot >= 3)
    assert slots.take("demo").slot == 3


def _take(folder: Path, name: str) -> int:
    slots.state_dir = lambda: folder
    slots._is_free = lambda _: True
    return slots.take(name).slot


def test_processes_at_the_same_time_get_different_slots(tmp_path: Path) -> None:
    names = [(tmp_path / "shared", f"c{number}") for number in range(SLOTS)]
    with multiprocessing.get_context("spawn").Pool(min(4, os.cpu_count() or 1)) as pool:
        taken = pool.starmap(_take, names)
    assert sorted(taken) == list(range(SLOTS))


@pytest.mark.parametrize("name", ["", "Demo", "1st", "a_b", "-a", "a-", "a" * 21, "../x"])
def test_a_name_that_cannot_name_files_and_links_is_refused(name: str) -> None:
    with pytest.raises(WrongUse, match="no cluster name"):
        slots.take(name)


def networks(place: Place) -> list[ipaddress.IPv4Network]:
    texts = (place.node_network, place.pod_network, place.service_network)
    return [ipaddress.IPv4Network(text) for text in texts]


def test_no_two_networks_of_any_clusters_overlap() -> None:
    every = [net for slot in range(SLOTS) for net in networks(Place(slot))]
    assert not [pair for pair in itertools.combinations(every, 2) if pair[0].overlaps(pair[1])]


def test_addresses_lie_in_their_networks() -> None:
    place = Place(7)
    nodes, pods, services = networks(place)
    assert ipaddress.IPv4Address(place.gateway) in nodes
    assert ipaddress.IPv4Address(place.node_address(1)) in nodes
    assert ipaddress.IPv4Network(place.pod_network_of(1)).subnet_of(pods)
    assert ipaddress.IPv4Address(place.api_service) == services[1]


def test_no_two_ports_are_the_same_and_none_is_for_outgoing_connections() -> None:
    ports = [Place(slot).port(name) for slot in range(SLOTS) for name in PORTS]
    assert len(set(ports)) == len(ports)
    assert max(ports) < 32768


def test_link_names_fit_the_kernel() -> None:
    assert len(Place(15).link(9)) <= 15
