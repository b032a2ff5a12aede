"""What the API server would refuse, found without one: types, unknown fields and CEL rules.

The rules are read from the API types, which the CRD is made from.  Left out are rules about
changes, as there is nothing to change, and the platform's own policies.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

import cel
from pydantic import ValidationError

from deepspeed_operator.api import names
from deepspeed_operator.api.types import DeepSpeedJob, DeepSpeedJobSpec
from deepspeed_operator.cli.ends import Refused, WrongUse

Node = Mapping[str, Any]
Cause = tuple[str, str]

NAME: Final = r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?"


def check_job(document: Mapping[str, Any], note: Callable[[str], None]) -> DeepSpeedJobSpec:
    """Return the spec of a job that an API server with our CRD would accept.

    A rule that cannot be evaluated here is noted.

    Raises:
        Refused: with every field that is wrong.
        WrongUse: the job is of a version that this release does not know.
    """
    if document["apiVersion"] != names.API_VERSION:
        raise WrongUse(
            f"apiVersion {document['apiVersion']!r} is not known here; this dsjob knows"
            f" {names.API_VERSION}"
        )
    causes = [*_name_faults(document["metadata"]["name"]), *_unknown_fields(document)]
    causes += _repeated_items(document)
    spec, faults = _read_spec(document.get("spec"))
    if spec is not None:
        causes += _broken_rules(document["metadata"], spec, note)
    causes += faults
    if causes or spec is None:
        name = document["metadata"]["name"]
        raise Refused(f"deepspeedjob/{name} would be refused by the API server", causes=causes)
    return spec


def _name_faults(name: str) -> Iterator[Cause]:
    if not re.fullmatch(NAME, name) or len(name) > 253:
        yield "metadata.name", "lower-case letters, digits, '-' and '.', between letters or digits"


def _read_spec(raw: Any) -> tuple[DeepSpeedJobSpec | None, list[Cause]]:
    try:
        # As JSON, and strictly: the API server takes no "2" for a number either.
        return DeepSpeedJobSpec.model_validate_json(json.dumps(raw), strict=True), []
    except TypeError as error:  # a date or a set, which YAML has and JSON has not
        return None, [("spec", str(error))]
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return None, [(_path("spec", *each["loc"]), each["msg"]) for each in found]


def _unknown_fields(document: Mapping[str, Any]) -> Iterator[Cause]:
    for node, value, path in _walk({"spec": document.get("spec")}):
        known = node.get("properties")
        if known is None or not isinstance(value, dict):
            continue
        for key in value:
            if key not in known:
                close = get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield _path(path, key), f"there is no such field{hint}"


def _repeated_items(document: Mapping[str, Any]) -> Iterator[Cause]:
    for node, value, path in _walk({"spec": document.get("spec")}):
        keys = node.get("x-kubernetes-list-map-keys", ())
        if not keys or not isinstance(value, list):
            continue
        found = [[item.get(key) for key in keys] for item in value if isinstance(item, dict)]
        for index, each in enumerate(found):
            if each in found[:index]:
                yield f"{path}[{index}]", f"{', '.join(keys)} {each} is there twice"


def _broken_rules(
    meta: Mapping[str, Any], spec: DeepSpeedJobSpec, note: Callable[[str], None]
) -> Iterator[Cause]:
    # With defaults, as the API server has filled them in before it looks at rules.
    filled = spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    for node, value, path in _walk({"metadata": dict(meta), "spec": filled}):
        for rule in node.get("x-kubernetes-validations", ()):
            if "oldSelf" in rule["rule"]:
                continue
            try:
                holds = cel.evaluate(rule["rule"], {"self": value})
            except (ValueError, RuntimeError, TypeError) as error:
                note(f"not checked here: {rule['message']} ({error})")
                continue
            if not holds:
                yield f"{path}{rule.get('fieldPath', '')}".lstrip("."), rule["message"]


def _walk(document: Mapping[str, Any]) -> Iterator[tuple[Node, Any, str]]:
    """Yield every value that the schema describes, with its schema and its path."""
    schema = DeepSpeedJob.model_json_schema(by_alias=True)
    defs = schema.get("$defs", {})
    # What every object has is checked elsewhere.
    properties = {**schema["properties"], "metadata": {}}
    yield from _descend({**schema, "properties": properties}, document, "", defs)


def _descend(node: Node, value: Any, path: str, defs: Node) -> Iterator[tuple[Node, Any, str]]:
    node = _resolve(node, defs)
    yield node, value, path
    if isinstance(value, dict):
        for key, child in value.items():
            inner = node.get("properties", {}).get(key, node.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from _descend(inner, child, _path(path, key), defs)
    elif isinstance(value, list) and isinstance(node.get("items"), dict):
        for index, child in enumerate(value):
            yield from _descend(node["items"], child, f"{path}[{index}]", defs)


def _resolve(node: Node, defs: Node) -> Node:
    """Return a schema without references, and of an optional field the one of its value."""
    while True:
        rest = {key: value for key, value in node.items() if key not in ("$ref", "anyOf", "allOf")}
        if "$ref" in node:
            node = {**defs[node["$ref"].rpartition("/")[2]], **rest}
            continue
        choices = node.get("allOf") or node.get("anyOf") or []
        values = [each for each in choices if each.get("type") != "null"]
        if len(values) != 1:
            return node
        node = {**values[0], **rest}


def _path(*parts: Any) -> str:
    return ".".join(str(part) for part in parts if part != "")
