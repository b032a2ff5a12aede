"""The Python that has the trainer's packages: found, asked what it has, and what it lacks named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepspeed_operator.build.raycluster import RAY_VERSION
from deepspeed_operator.cli.ends import Unavailable, WrongUse

NEEDED: Final = ("ray", "torch", "deepspeed", "typing_extensions")
PROBE_S: Final = 120
_PROBE: Final = """
import importlib.metadata, importlib.util, json, sys
names, with_devices = json.loads(sys.argv[1])
missing = [name for name in names if importlib.util.find_spec(name) is None]
found = {"missing": missing, "python": list(sys.version_info[:2]), "ray": "", "devices": 0}
if not missing:
    found["ray"] = importlib.metadata.version("ray")
    if with_devices:
        import torch
        found["devices"] = torch.cuda.device_count()
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python with all that a local run needs."""

    path: str
    ray: str
    devices: int
    """GPUs that its torch sees; 0 when nobody asked."""

    @property
    def notice(self) -> str | None:
        """What is unusual about it, in one sentence."""
        if self.ray == RAY_VERSION:
            return None
        return f"{self.path} has Ray {self.ray}; the trainer is tested with {RAY_VERSION} alone"


def find_interpreter(wanted: str | None, *, with_devices: bool) -> Interpreter:
    """Return the wanted Python, or the first that has everything: PATH's, then our own.

    Raises:
        Unavailable: with the packages that are missing and how to get them.
        WrongUse: the wanted one is no Python.
    """
    if sys.platform != "linux":
        raise Unavailable(f"local runs need Linux, and this is {sys.platform}")
    failures = []
    for path in _candidates(wanted):
        found = _probe(path, with_devices=with_devices)
        if found is None:
            failures.append(f"{path} is no Python that can be run")
        elif found["missing"]:
            failures.append(f"{path} lacks {', '.join(found['missing'])}")
        elif tuple(found["python"]) < (3, 11):
            failures.append(f"{path} is older than Python 3.11")
        else:
            return Interpreter(path, found["ray"], found["devices"])
    if wanted is not None and failures[0].endswith("can be run"):
        raise WrongUse(f"--python: {failures[0]}")
    raise Unavailable(
        f"a local run needs a Python with ray, torch and deepspeed ({'; '.join(failures)}): name"
        " one with --python PATH, or install them: pip install torch 'ray[default,train]=="
        f"{RAY_VERSION}' deepspeed==0.19.8"
    )


def _candidates(wanted: str | None) -> Sequence[str]:
    if wanted is not None:
        return [wanted]
    active = shutil.which("python")
    return list(dict.fromkeys(path for path in (active, sys.executable) if path))


def _probe(path: str, *, with_devices: bool) -> dict[str, Any] | None:
    """Ask a Python what it has; None when it cannot be asked."""
    command = [path, "-c", _PROBE, json.dumps([NEEDED, with_devices])]
    env = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None
    return found
