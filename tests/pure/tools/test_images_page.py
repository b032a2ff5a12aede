"""What docs/images.md says is what the Dockerfile, the trainer and the tests of its range hold."""

import re
import shlex
from pathlib import Path

import pytest

from deepspeed_trainer import contract, supported

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "images.md").read_text()
DOCKERFILE = (ROOT / "trainer_image" / "Dockerfile").read_text()
DECLARED = dict(re.findall(r"^ARG (\w+)=\"?([^\"\n]+)\"?$", DOCKERFILE, re.MULTILINE))


def rows() -> dict[str, list[str]]:
    """The page's tables: a row's first cell, and the others."""
    lines = re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE)
    cells = [line.split(" | ") for line in lines]
    return {first: rest for first, *rest in cells}


def series(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@pytest.mark.parametrize("name", supported.RANGES)
def test_the_range_on_the_page_is_the_one_that_is_asked_for(name: str) -> None:
    [row] = [ends for first, ends in rows().items() if first.lower().split(",")[0] == name.lower()]
    assert tuple(map(series, row)) == supported.RANGES[name]


def test_the_trainer_image_is_in_range() -> None:
    pinned = (ROOT / "trainer_image" / "requirements.txt").read_text()
    versions = dict(re.findall(r"^(\w+)(?:\[.*\])?==(\S+)$", pinned, re.MULTILINE))
    versions["torch"] = DECLARED["TORCH"].partition("==")[2]
    versions["Python"] = DECLARED["BASE_IMAGE"].partition(":")[2].partition("-")[0]
    assert supported.find_fault(versions.get, lambda _: True, supported.PARTS) is None


def test_the_build_arguments_are_the_dockerfiles() -> None:
    told: dict[str, str] = {}
    for first, rest in rows().items():
        names = re.findall(r"`([A-Z_]+)`", first)
        told |= dict(zip(names, re.findall(r"`([^`]+)`", rest[0]), strict=True)) if names else {}
    assert told == DECLARED


def test_the_build_that_is_told_sets_arguments_that_exist() -> None:
    [line] = re.findall(r"^\$ docker build (.+)$", PAGE, re.MULTILINE)
    words = shlex.split(re.sub("<[^>]+>", "image", line))
    given = {word.partition("=")[0] for word in words if "=" in word}
    assert given == {"ACCELERATOR", "BUILD_IMAGE", "BASE_IMAGE"}
    assert given <= set(DECLARED)


def test_the_sentence_on_the_page_is_the_trainers() -> None:
    found = {**dict.fromkeys(supported.RANGES, "0.0"), "Python": "3.11.7"}
    told = supported.find_fault({**found, "torch": "1.13.1"}.get, lambda _: True, [])
    assert told is not None
    assert told in " ".join(PAGE.split())
    assert f"`{contract.TRAINER_MOUNT}`" in PAGE


def test_what_changes_often_comes_after_what_takes_long() -> None:
    order = (
        'pip install "${TORCH}"',
        "./deepspeed",
        "FROM ${BASE_IMAGE}",
        "ds_report",
        "COPY trainer_image/deepspeed_trainer",
    )
    places = [DOCKERFILE.index(words) for words in order]
    assert places == sorted(places)


def test_the_image_names_its_user_by_a_number() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users
    assert int(users[-1]) > 0
