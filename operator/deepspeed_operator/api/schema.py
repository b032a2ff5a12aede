"""How pydantic types become schemas that the API server accepts: the base model and its markers.

Rules written here travel into the CRD as `x-kubernetes-*` keys; tools/gen.py turns the rest of
pydantic's JSON schema into a structural one.  No field of the product lives here.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

IntOrString = Annotated[
    int | str,
    WithJsonSchema({"x-kubernetes-int-or-string": True, "anyOf": []}),
]
"""A number or a string, as Kubernetes quantities are written."""

RawObject = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object that the API server stores as it is."""

Name = Annotated[str, Field(min_length=1, max_length=253)]
"""The name of an object in Kubernetes."""

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A moment in RFC 3339, UTC, whole seconds."""


class ApiModel(BaseModel):
    """Base of every type of the API: frozen, camelCase outside, described by its docstrings.

    Unknown fields are ignored, so that a newer CRD cannot crash an older operator.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


def rule(expression: str, message: str, *, path: str | None = None) -> dict[str, str]:
    """Return one CEL rule.  `path` points at the field that the message is about."""
    found = {"rule": expression, "message": message}
    return found if path is None else {**found, "fieldPath": path, "reason": "FieldValueInvalid"}


def rules(*found: dict[str, str]) -> dict[str, Any]:
    """Return the schema extra that carries CEL rules."""
    return {"x-kubernetes-validations": list(found)}


def fixed(name: str) -> dict[str, Any]:
    """Return the schema extra of a field that may not change after creation."""
    message = f"{name} cannot be changed after creation; delete the job and create it anew"
    return rules(rule("self == oldSelf", message))


def listed_by(*keys: str) -> dict[str, Any]:
    """Return the schema extra of a list whose items are known by their keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
