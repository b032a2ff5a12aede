"""Strict, bounded reading of JSON that somebody else wrote.

Each read names the field it wants and its bounds; what does not fit raises ContractError with the
field's path.  Nothing here knows what the fields mean, and nothing is coerced: "8" is not 8.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

MISSING: Final = object()


class ContractError(ValueError):
    """A document breaks the contract; the message names the field and what it must be."""


def read_object(text: str | bytes, *, max_bytes: int, what: str) -> "Fields":
    """Return the reader of one JSON object.

    Raises:
        ContractError: too big, not JSON, or not an object.
    """
    if len(text) > max_bytes:
        raise ContractError(f"{what} has {len(text)} bytes; the limit is {max_bytes}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{what} is not JSON: {error}") from error
    return Fields(value, what)


class Fields:
    """Reader of one JSON object; `where` is its path in messages."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ContractError(f"{where} must be an object, not {type(value).__name__}")
        self._values: dict[str, Any] = value
        self._where = where
        self._known: set[str] = set()

    def take(self, name: str, default: object = MISSING) -> Any:
        """Return the raw value of a field; without a default the field must be there."""
        self._known.add(name)
        value = self._values.get(name, default)
        if value is MISSING:
            raise ContractError(f"{self._where}.{name} is missing")
        return value

    def fail(self, name: str, wanted: str) -> ContractError:
        """Return the error that says what the field must be."""
        return ContractError(f"{self._where}.{name} must be {wanted}")

    def text(self, name: str, *, max_chars: int, pattern: str = "") -> str:
        """Return a text of at most `max_chars` that fits the whole pattern."""
        value = self.take(name)
        if not isinstance(value, str) or len(value) > max_chars:
            raise self.fail(name, f"a text of at most {max_chars} characters")
        if pattern and not re.fullmatch(pattern, value):
            raise self.fail(name, f"a text of the form {pattern}")
        return value

    def optional_text(self, name: str, *, max_chars: int, pattern: str = "") -> str | None:
        """Return a text, or None when the field is null or absent."""
        if self.take(name, None) is None:
            return None
        return self.text(name, max_chars=max_chars, pattern=pattern)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of a closed set of texts."""
        value = self.take(name)
        if not isinstance(value, str) or value not in choices:
            raise self.fail(name, f"one of {', '.join(choices)}")
        return value

    def whole(self, name: str, *, low: int = 0, high: int = 2**53) -> int:
        """Return a whole number between two bounds."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(name, f"a whole number from {low} to {high}")
        return value

    def optional_whole(self, name: str, *, low: int = 0, high: int = 2**53) -> int | None:
        """Return a whole number, or None when the field is null or absent."""
        return None if self.take(name, None) is None else self.whole(name, low=low, high=high)

    def number(self, name: str, *, low: float, high: float) -> float:
        """Return a finite number between two bounds."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(name, "a number")
        if not low <= value <= high or not math.isfinite(value):
            raise self.fail(name, f"a number from {low} to {high}")
        return float(value)

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.fail(name, "true or false")
        return value

    def optional_flag(self, name: str) -> bool:
        """Return true or false; a field that is null or absent is false."""
        return self.take(name, None) is not None and self.flag(name)

    def items(self, name: str, *, max_items: int) -> list[Any]:
        """Return a list of at most `max_items` raw values."""
        value = self.take(name)
        if not isinstance(value, list) or len(value) > max_items:
            raise self.fail(name, f"a list of at most {max_items} items")
        return value

    def texts(self, name: str, *, max_items: int, max_chars: int) -> tuple[str, ...]:
        """Return a bounded list of bounded texts."""
        values = self.items(name, max_items=max_items)
        if not all(isinstance(value, str) and len(value) <= max_chars for value in values):
            raise self.fail(name, f"a list of texts of at most {max_chars} characters")
        return tuple(values)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object whose inside is somebody else's business."""
        value = self.take(name)
        if not isinstance(value, dict):
            raise self.fail(name, "an object")
        return value

    def section(self, name: str) -> "Fields":
        """Return the reader of an object inside this one."""
        return Fields(self.take(name), f"{self._where}.{name}")

    def optional_section(self, name: str) -> "Fields | None":
        """Return the reader of an object, or None when it is null or absent."""
        return None if self.take(name, None) is None else self.section(name)

    def sections(self, name: str, *, max_items: int) -> list["Fields"]:
        """Return the readers of a bounded list of objects."""
        values = self.items(name, max_items=max_items)
        return [Fields(value, f"{self._where}.{name}[{i}]") for i, value in enumerate(values)]

    def refuse_unknown(self) -> None:
        """Raise ContractError for a field that nobody asked for: it would be lost in silence."""
        unknown = sorted(set(self._values) - self._known)
        if unknown:
            raise ContractError(f"{self._where}.{unknown[0]} is not a field of the contract")
