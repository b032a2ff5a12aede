"""What one rank writes down about its training: a line at each start and one for each step.

Figures are written as their bits, so that equal means equal.  Every step's line carries a hash
over itself and all lines before it: two runs that did the same have the same last hash.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from deepspeed_trainer.fields import ContractError, Fields, read_object
from deepspeed_trainer.fingerprint.order import Layout, Order

RECORD_VERSION: Final = 1
FOLDER: Final = "fingerprint"
"""Below an attempt's folder, or below the checkpoints' outside the operator."""
SIDECAR_PREFIX: Final = "loop_rng_state_"
"""Beside a checkpoint, with the rank after it: holds the lines since the save before, too."""
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_SIDECAR_BYTES: Final = 256 * 1024 * 1024
"""Random states have some KiB, a line a step a quarter of one."""
MAX_WORLD: Final = 65_536
MAX_FIGURES: Final = 4096
"""Losses of one step at most; a step with more micro-batches keeps the last ones."""

START_OF_START: Final = '{"kind": "start"'
_CHAIN_BYTES: Final = 16
_CHAIN: Final = rf"[0-9a-f]{{{2 * _CHAIN_BYTES}}}"
_IDS: Final = r"[0-9a-f]{16}"
_BITS: Final = r"([0-9a-f]{16})?"

BEGINNING: Final = "0" * 2 * _CHAIN_BYTES
"""The chain before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A rank began to train, after `step` steps and `position` samples of all ranks."""

    attempt: int
    start: int
    """Counts the starts within an attempt, from 1."""
    rank: int
    layout: Layout
    order: Order
    step: int
    position: int
    chain: str
    adopted: bool | None = None
    """Whether another run had saved what this continues from; None where nobody has told."""

    def to_line(self) -> str:
        """Return the line, without its end."""
        plain = {
            "kind": "start",
            "version": RECORD_VERSION,
            "attempt": self.attempt,
            "start": self.start,
            "rank": self.rank,
            "world_size": self.layout.world_size,
            "micro_batch": self.layout.micro_batch,
            "accumulation": self.layout.accumulation,
            "seed": self.order.seed,
            "length": self.order.length,
            "is_shuffled": self.order.is_shuffled,
            "step": self.step,
            "position": self.position,
            "chain": self.chain,
            "adopted": self.adopted,
        }
        return json.dumps(plain)

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read a line; one of an older release says nothing of other runs."""
        if fields.whole("version") != RECORD_VERSION:
            raise fields.fail("version", f"{RECORD_VERSION}, the one that this release reads")
        layout = Layout(
            world_size=fields.whole("world_size", low=1, high=MAX_WORLD),
            micro_batch=fields.whole("micro_batch", low=1),
            accumulation=fields.whole("accumulation", low=1),
        )
        order = Order(
            seed=fields.whole("seed", low=-(2**63), high=2**64),
            length=fields.whole("length", low=1),
            is_shuffled=fields.flag("is_shuffled"),
        )
        return cls(
            attempt=fields.whole("attempt", low=1, high=100_000),
            start=fields.whole("start", low=1),
            rank=fields.whole("rank", high=layout.world_size - 1),
            layout=layout,
            order=order,
            step=fields.whole("step"),
            position=fields.whole("position"),
            chain=fields.text("chain", max_chars=64, pattern=_CHAIN),
            adopted=None if fields.take("adopted", None) is None else fields.flag("adopted"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step of one rank; `position` is where the step's samples of all ranks begin."""

    step: int
    position: int
    ids: str
    """Hash of the data set's indices that the rank was given, in their order."""
    losses: tuple[str, ...]
    """Bits of each micro-batch's loss."""
    norm: str
    """Bits of the gradient norm over all ranks; empty where the engine has none."""
    chain: str = BEGINNING

    def chained(self, before: str) -> Self:
        """Return the step with its hash, after one whose hash was `before`."""
        text = before + json.dumps([self.step, self.position, self.ids, self.losses, self.norm])
        chain = hashlib.blake2b(text.encode(), digest_size=_CHAIN_BYTES).hexdigest()
        return replace(self, chain=chain)

    @property
    def mean_loss(self) -> float:
        """Mean over the rank's micro-batches; nan where the program showed no loss."""
        values = [from_bits(bits) for bits in self.losses]
        return math.fsum(values) / len(values) if values else math.nan

    def to_line(self) -> str:
        """Return the line, without its end."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"kind": "step", **plain})

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read a line."""
        losses = fields.texts("losses", max_items=MAX_FIGURES, max_chars=16)
        if not all(len(bits) == 16 and set(bits) <= set("0123456789abcdef") for bits in losses):
            raise fields.fail("losses", "a list of 16 hexadecimal digits each")
        return cls(
            step=fields.whole("step", low=1),
            position=fields.whole("position"),
            ids=fields.text("ids", max_chars=16, pattern=_IDS),
            losses=losses,
            norm=fields.text("norm", max_chars=16, pattern=_BITS),
            chain=fields.text("chain", max_chars=64, pattern=_CHAIN),
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """What one rank wrote from a start to its end."""

    start: Start
    steps: tuple[Step, ...]


def hash_ids(ids: Iterable[int]) -> str:
    """Return the hash of a list of sample indices, order included."""
    digest = hashlib.blake2b(digest_size=8)
    for each in ids:
        digest.update(each.to_bytes(8, signed=True))
    return digest.hexdigest()


def to_bits(value: float) -> str:
    """Return the bits of a float64 as 16 hexadecimal digits."""
    return struct.pack(">d", value).hex()


def from_bits(bits: str) -> float:
    """Return the float64 of 16 hexadecimal digits, or nan for none."""
    return float(struct.unpack(">d", bytes.fromhex(bits))[0]) if bits else math.nan


def read_sidecar_lines(text: str, where: str) -> str:
    """Return the lines that a rank's part of a checkpoint holds, as its file has them.

    Raises:
        ContractError: naming the file and the field that is wrong.
    """
    fields = read_object(text, max_bytes=MAX_SIDECAR_BYTES, what=where)
    lines = fields.texts("record", max_items=MAX_SIDECAR_BYTES, max_chars=MAX_LINE_BYTES)
    return "".join(f"{line}\n" for line in lines)


def read_segments(text: str, where: str) -> list[Segment]:
    """Read a rank's file.

    A last line that was cut by a kill is left out, also where a later start follows it.

    Raises:
        ContractError: naming the file, the line and the field that is wrong.
    """
    found: list[tuple[Start, list[Step]]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        name = f"{where}:{number}"
        try:
            fields = read_object(line, max_bytes=MAX_LINE_BYTES, what=name)
        except ContractError:
            if number < len(lines) and not lines[number].startswith(START_OF_START):
                raise
            continue
        if fields.choice("kind", ("start", "step")) == "start":
            found.append((Start.from_fields(fields), []))
        elif not found:
            raise fields.fail("kind", "start in the first line")
        else:
            found[-1][1].append(Step.from_fields(fields))
    return [Segment(start, tuple(steps)) for start, steps in found]
