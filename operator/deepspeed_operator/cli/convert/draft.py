"""A DeepSpeedJob that is being drafted from something else, with notes on what needs a look."""

import json
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from pydantic import ValidationError

from deepspeed_operator.api import names
from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.cli.ends import WrongUse
from deepspeed_operator.decide.environment import RESERVED, RESERVED_PREFIXES

COLUMNS: Final = 96


@dataclass(slots=True)
class Draft:
    """The manifest so far; each note begins with the field that it is about."""

    name: str
    spec: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    namespace: str | None = None

    def note(self, path: str, sentence: str) -> None:
        """Say what a person has to look at."""
        self.notes.append(f"{path}: {sentence}")

    def add_env(self, name: str, value: str) -> None:
        """Give the ranks a variable, unless the trainer sets it itself."""
        if name in RESERVED or name.startswith(RESERVED_PREFIXES):
            self.note("spec.deepspeed.env", f"{name} is left out, the trainer sets it itself")
        else:
            self.spec.setdefault("deepspeed", {}).setdefault("env", {})[name] = value

    def add_places(self) -> None:
        """Name a claim where checkpoints of several nodes can lie, and ask for the program."""
        if "code" not in self.spec:
            self.note("spec.code", "the program must be in the image, or come by spec.code")
        if self.spec["nodes"] > 1 and "storage" not in self.spec:
            claim = f"{self.name}-runs"
            self.spec["storage"] = {"volumeClaim": claim}
            self.note("spec.storage", f"make the claim {claim}, ReadWriteMany, or name another one")

    def render(self, source: str) -> str:
        """Return the manifest as YAML, its notes in comments before it.

        Raises:
            WrongUse: the draft breaks a rule of the API; the message names the field.
        """
        _check(self.spec)
        metadata = {"name": self.name, "namespace": self.namespace}
        job = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {key: value for key, value in metadata.items() if value},
            "spec": self.spec,
        }
        body = yaml.safe_dump(job, sort_keys=False, width=COLUMNS, allow_unicode=True)
        return "".join(f"{line}\n" for line in self._comments(source)) + body

    def _comments(self, source: str) -> list[str]:
        lines = _comment(f"From: {source}")
        if self.notes:
            lines += ["#", "# Look at these before you use it:"]
        for note in self.notes:
            lines += _comment(note, first="# - ", further="#   ")
        return lines


def derive_name(text: str) -> str:
    """Return a name for a Kubernetes object that is made from a file's or a module's."""
    stem = re.sub(r"\.py$", "", text.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-") or "job"


def read_config(text: str) -> dict[str, Any] | None:
    """Return a DeepSpeed configuration, or None when the text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _comment(text: str, first: str = "# ", further: str = "#   ") -> list[str]:
    # One line, whatever it holds: nothing may slip out of the comment.
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return textwrap.wrap(
        plain, COLUMNS, initial_indent=first, subsequent_indent=further,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _check(spec: dict[str, Any]) -> None:
    try:
        DeepSpeedJobSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise WrongUse(f"this makes no DeepSpeedJob: spec.{path}: {first['msg']}") from error
