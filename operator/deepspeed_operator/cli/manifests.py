"""Manifests as people write them: YAML or JSON, several documents in a file, `-` for the input.

Only what every Kubernetes object has is checked here; the rest is the server's, or `offline`'s.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from deepspeed_operator.api import names
from deepspeed_operator.cli.ends import WrongUse

Object = dict[str, Any]

STDIN: Final = "-"


def read_objects(sources: Sequence[str]) -> list[Object]:
    """Return the objects of all files, in their order; Lists are taken apart.

    Raises:
        WrongUse: naming the file, the document and what is wrong with it.
    """
    return [found for source in sources for found in _read_file(source)]


def is_job(found: Mapping[str, Any]) -> bool:
    """Whether an object is a DeepSpeedJob of any version."""
    group = str(found["apiVersion"]).partition("/")[0]
    return bool(found["kind"] == names.KIND and group == names.GROUP)


def only_job(found: Sequence[Object], name: str | None = None) -> Object:
    """Return the one DeepSpeedJob, or the one of this name.

    Raises:
        WrongUse: there is none, or which one is meant cannot be known.
    """
    jobs = [each for each in found if is_job(each)]
    if name is not None:
        jobs = [each for each in jobs if each["metadata"]["name"] == name]
    if len(jobs) == 1:
        return jobs[0]
    if not jobs:
        which = f" of the name {name!r}" if name else ""
        raise WrongUse(f"the manifest holds no DeepSpeedJob{which}")
    listed = ", ".join(each["metadata"]["name"] for each in jobs)
    raise WrongUse(f"the manifest holds several DeepSpeedJobs ({listed}): one is needed")


def _read_file(source: str) -> Iterator[Object]:
    where = "the input" if source == STDIN else source
    try:
        text = sys.stdin.read() if source == STDIN else Path(source).read_text()
        documents = list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"{where} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise WrongUse(f"{where} is no YAML: {error}") from error
    found = [each for each in documents if each is not None]
    if not found:
        raise WrongUse(f"{where} holds no object")
    for number, document in enumerate(found, start=1):
        yield from _check(document, f"{where}, document {number}")


def _check(document: Any, where: str) -> Iterator[Object]:
    if not isinstance(document, dict):
        raise WrongUse(f"{where}: a Kubernetes object is a map, not {type(document).__name__}")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise WrongUse(f"{where}: {field} is missing")
    if document["kind"] == "List" and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], start=1):
            yield from _check(item, f"{where}, item {number}")
        return
    meta = document.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        raise WrongUse(f"{where} ({document['kind']}): metadata.name is missing")
    yield document
