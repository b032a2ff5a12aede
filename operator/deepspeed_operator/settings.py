"""What the platform sets: environment variables, read once and checked.

The only reader of the environment; where the API server is and who we are is found by the client
libraries themselves.  Everything that differs between jobs belongs into the DeepSpeedJob instead.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

T = TypeVar("T")

LogFormat = Literal["json", "text"]
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingInvalid(ValueError):
    """A variable is missing or cannot be used; the message names it and says what it takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one operator."""

    namespace: str
    """DSJOB_NAMESPACE: the operator's own namespace, where its key lies.  Required."""
    trainer_image: str
    """DSJOB_TRAINER_IMAGE: image of jobs that name none.  Required."""
    injector_image: str = ""
    """DSJOB_INJECTOR_IMAGE: image whose trainer goes into images that jobs name, as a rule this
    operator's own.  Default none: such images must hold the trainer."""
    watch_namespaces: tuple[str, ...] = ()
    """DSJOB_WATCH_NAMESPACES: namespaces with jobs, separated by commas.  Default: all."""
    progress_interval_s: int = 30
    """DSJOB_PROGRESS_INTERVAL_SECONDS: least time between two writes of progress.  Default 30."""
    capacity_check: bool = True
    """DSJOB_CAPACITY_CHECK: whether a device that no node offers holds a job back; set it to
    false where nodes are added on demand.  Default true."""
    health_port: int = 8081
    """DSJOB_HEALTH_PORT: port of /healthz and /readyz.  Default 8081."""
    workers: int = 8
    """DSJOB_WORKERS: jobs that are looked at side by side.  Default 8."""
    log_level: str = "INFO"
    """DSJOB_LOG_LEVEL: DEBUG, INFO, WARNING or ERROR.  Default INFO."""
    log_format: LogFormat = "json"
    """DSJOB_LOG_FORMAT: json or text.  Default json."""


def read_settings(env: Mapping[str, str]) -> Settings:
    """Return the settings that an environment holds.

    Raises:
        SettingInvalid: for the first variable that cannot be used.
    """
    own = Settings(
        namespace=_read(env, "DSJOB_NAMESPACE", _read_namespace),
        trainer_image=_read(env, "DSJOB_TRAINER_IMAGE", _read_text),
    )
    return Settings(
        namespace=own.namespace,
        trainer_image=own.trainer_image,
        injector_image=_read(env, "DSJOB_INJECTOR_IMAGE", _read_text, own.injector_image),
        watch_namespaces=_read(env, "DSJOB_WATCH_NAMESPACES", _read_namespaces, ()),
        progress_interval_s=_read(
            env, "DSJOB_PROGRESS_INTERVAL_SECONDS", _whole(1, 3600), own.progress_interval_s
        ),
        capacity_check=_read(env, "DSJOB_CAPACITY_CHECK", _read_flag, own.capacity_check),
        health_port=_read(env, "DSJOB_HEALTH_PORT", _whole(1, 65535), own.health_port),
        workers=_read(env, "DSJOB_WORKERS", _whole(1, 256), own.workers),
        log_level=_read(env, "DSJOB_LOG_LEVEL", _read_level, own.log_level),
        log_format=_read(env, "DSJOB_LOG_FORMAT", _read_format, own.log_format),
    )


def _read(
    env: Mapping[str, str], name: str, parse: Callable[[str], T], default: T | None = None
) -> T:
    text = env.get(name, "").strip()
    if not text:
        if default is None:
            raise SettingInvalid(f"{name} is not set; the chart sets it, see docs/operators")
        return default
    try:
        return parse(text)
    except ValueError as error:
        raise SettingInvalid(f"{name}={text!r} cannot be used: {error}") from error


def _read_text(text: str) -> str:
    return text


def _read_namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise ValueError(f"{text!r} is no name of a namespace")
    return text


def _read_namespaces(text: str) -> tuple[str, ...]:
    names = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(_read_namespace(name) for name in names if name))


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"it takes a whole number from {low} to {high}")
        return int(text)

    return parse


def _read_flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("it takes true or false")
    return text.lower() == "true"


def _read_level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise ValueError(f"it takes one of {', '.join(LEVELS)}")
    return text.upper()


def _read_format(text: str) -> LogFormat:
    if text == "json":
        return "json"
    if text == "text":
        return "text"
    raise ValueError("it takes json or text")
