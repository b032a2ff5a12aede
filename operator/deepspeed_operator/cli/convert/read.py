"""From what was typed to a draft: a command line, or a manifest of another kind."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from deepspeed_operator.cli.convert.draft import Draft
from deepspeed_operator.cli.convert.launcher import draft_launch
from deepspeed_operator.cli.convert.rayjob import convert_rayjob
from deepspeed_operator.cli.ends import WrongUse
from deepspeed_operator.cli.manifests import STDIN, Object, read_objects


def convert(words: Sequence[str], file: str | None, *, name: str | None, image: str | None) -> str:
    """Return the manifest of a DeepSpeedJob as YAML, with its notes in comments.

    Raises:
        WrongUse: there is nothing to convert, or it cannot be.
    """
    if bool(words) == (file is not None):
        raise WrongUse("give either a command line after -- or a manifest with -f")
    if file is None:
        draft, source = draft_launch(words, read_file), shlex.join(words)
    else:
        draft, source = _convert_manifest(file)
    draft.add_places()
    if name is not None:
        draft.name = name
    if image is not None:
        draft.spec["image"] = image
    return draft.render(source)


def read_file(name: str) -> str | None:
    """Return the text of a file of this machine, None when there is none."""
    path = Path(name).expanduser()
    try:
        return path.read_text()
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"{name} cannot be read: {error}") from error


def _convert_manifest(file: str) -> tuple[Draft, str]:
    objects = read_objects([file])
    found = [each for each in objects if _is_rayjob(each)]
    if len(found) != 1:
        kinds = ", ".join(str(each["kind"]) for each in objects)
        raise WrongUse(f"one RayJob is needed, found {kinds}")
    [rayjob] = found
    where = "the input" if file == STDIN else file
    return convert_rayjob(rayjob, read_file), f"RayJob {rayjob['metadata']['name']} in {where}"


def _is_rayjob(found: Object) -> bool:
    group = str(found["apiVersion"]).partition("/")[0]
    return bool(found["kind"] == "RayJob" and group == "ray.io")
