"""The environment variables of a job's ranks: its .deepspeed_env, then its own, checked.

What the trainer sets itself is refused here: a program that set it would not get what it asked for.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from deepspeed_operator.api.types import DeepSpeedJobSpec
from deepspeed_operator.errors import InvalidJob

RESERVED: Final = frozenset(
    """
    RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE LOCAL_SIZE CROSS_RANK CROSS_SIZE NODE_RANK
    MASTER_ADDR MASTER_PORT DS_ACCELERATOR POD_UID POD_NAME
    """.split()
)
RESERVED_PREFIXES: Final = ("DSJOB_", "RAY_")

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_environment(
    spec: DeepSpeedJobSpec, config_maps: Mapping[str, Mapping[str, str] | None]
) -> Mapping[str, str]:
    """Return the variables of the ranks.

    Raises:
        InvalidJob: naming the variable or line that cannot be.
    """
    found: dict[str, str] = {}
    if spec.deepspeed.env_file is not None:
        source = spec.deepspeed.env_file.config_map
        where = f"ConfigMap {source.name}, key {source.key}"
        text = (config_maps.get(source.name) or {}).get(source.key, "")
        for number, name, value in _lines(text, where):
            _refuse_unusable(name, f"{where}, line {number}")
            found[name] = value
    for name in spec.deepspeed.env:
        _refuse_unusable(name, "deepspeed.env")
    return {**found, **spec.deepspeed.env}


def _lines(text: str, where: str) -> Iterator[tuple[int, str, str]]:
    """Read NAME=VALUE lines as the deepspeed launcher does; empty lines and # are passed over."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise InvalidJob(f"{where}, line {number}: {line[:60]!r} is not NAME=VALUE")
        yield number, name.strip(), value.strip()


def _refuse_unusable(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidJob(f"{where}: {name[:60]!r} is no name of an environment variable")
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        raise InvalidJob(f"{where}: {name} is set by the trainer itself; remove it")
