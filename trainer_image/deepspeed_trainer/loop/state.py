"""What a checkpoint of DeepSpeed leaves out: random states of a rank, and where its data stood.

One JSON file a rank in the tag's folder, readable by people and free of pickles.  The rank in its
name makes it that rank's own file in the checkpoint's manifest.
"""

import base64
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from deepspeed.accelerator import get_accelerator

from deepspeed_trainer.fields import Fields, read_object
from deepspeed_trainer.fingerprint.record import MAX_SIDECAR_BYTES, SIDECAR_PREFIX

SIDECAR_VERSION: Final = 1
_MAX_STATE_CHARS: Final = 4 * 1024 * 1024


class SidecarMissing(RuntimeError):
    """A checkpoint was saved by the helper and a rank's part of it is not there, or not its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A rank's part that DeepSpeed does not save."""

    step: int
    chain: str
    """The fingerprint up to this step."""
    random_states: dict[str, Any]
    record: tuple[str, ...] = ()
    """What the rank wrote down since the save before; read by `dsjob verify` alone."""

    @classmethod
    def read(cls, folder: Path, rank: int) -> Self:
        """Read a rank's file.

        Raises:
            OSError: it is not there.
            ContractError: it is not what `write` wrote; the message names the field.
        """
        path = folder / file_name(rank)
        with path.open("rb") as file:
            text = file.read(MAX_SIDECAR_BYTES + 1)
        fields = read_object(text, max_bytes=MAX_SIDECAR_BYTES, what=str(path))
        if fields.whole("version") != SIDECAR_VERSION:
            raise fields.fail("version", f"{SIDECAR_VERSION}, the one that this release reads")
        return cls(
            step=fields.whole("step"),
            chain=fields.text("chain", max_chars=64, pattern=r"[0-9a-f]{32}"),
            random_states=_decode(fields.section("random_states")),
        )

    def write(self, folder: Path, rank: int) -> None:
        """Write the file whole or not at all."""
        plain = {
            "version": SIDECAR_VERSION,
            "step": self.step,
            "chain": self.chain,
            "random_states": _encode(self.random_states),
            "record": self.record,
        }
        folder.mkdir(parents=True, exist_ok=True)
        # Both names have the rank: whoever lists the folder meanwhile knows whose file it is.
        beside = folder / f".{file_name(rank)}.new"
        with beside.open("w") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / file_name(rank))


def file_name(rank: int) -> str:
    """Return the name of a rank's file in the tag's folder."""
    return f"{SIDECAR_PREFIX}{rank:05d}.json"


def capture_random_states() -> dict[str, Any]:
    """Return the states of Python's, numpy's, torch's and the device's generators."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  what a program's own code draws from
        "torch": torch.get_rng_state(),
        "device": get_accelerator().get_rng_state(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set all generators to the states that were captured."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    get_accelerator().set_rng_state(states["device"])


def seed_everything(seed: int) -> None:
    """Start all generators anew: where a rank has no past that it could continue."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed % 2**63)


def _encode(states: dict[str, Any]) -> dict[str, Any]:
    version, words, gauss = states["python"]
    name, keys, position, has_gauss, cached = states["numpy"]
    return {
        "python": {"version": version, "words": list(words), "gauss": _hex(gauss)},
        "numpy": {
            "name": name,
            "keys": base64.b64encode(keys.tobytes()).decode(),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached).hex(),
        },
        "torch": _to_text(states["torch"]),
        "device": _to_text(states["device"]),
    }


def _decode(fields: Fields) -> dict[str, Any]:
    python, numpy = fields.section("python"), fields.section("numpy")
    words = python.items("words", max_items=10_000)
    gauss = python.optional_text("gauss", max_chars=64)
    keys = base64.b64decode(numpy.text("keys", max_chars=_MAX_STATE_CHARS))
    return {
        "python": (
            python.whole("version"),
            tuple(words),
            None if gauss is None else float.fromhex(gauss),
        ),
        "numpy": (
            numpy.text("name", max_chars=64),
            np.frombuffer(keys, dtype=np.uint32),
            numpy.whole("position"),
            numpy.whole("has_gauss"),
            float.fromhex(numpy.text("cached", max_chars=64)),
        ),
        "torch": _to_tensor(fields.text("torch", max_chars=_MAX_STATE_CHARS)),
        "device": _to_tensor(fields.text("device", max_chars=_MAX_STATE_CHARS)),
    }


def _hex(value: float | None) -> str | None:
    return None if value is None else value.hex()


def _to_text(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _to_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
