"""What a job runs and how it is started.

Part of the wall between operator and trainer; import it from `contract`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from deepspeed_trainer.fields import Fields


class EntrypointKind(StrEnum):
    """How an attempt's program is started."""

    SCRIPT = "script"
    """A Python file, one process per rank, as the `deepspeed` launcher starts it."""
    MODULE = "module"
    """The same with `python -m`."""
    COMMAND = "command"
    """Any program, one process per rank, or one per node."""
    FUNCTION = "function"
    """package.module:name, called as the train loop of our own TorchTrainer."""
    DRIVER = "driver"
    """A Python file that makes its own TorchTrainer, run once on the head."""

    @property
    def is_in_process(self) -> bool:
        """Whether Ray Train's worker is the rank itself and makes its process group."""
        return self in (EntrypointKind.FUNCTION, EntrypointKind.DRIVER)


_TARGETS: Final = {
    EntrypointKind.MODULE: r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*",
    EntrypointKind.FUNCTION: r"[A-Za-z_][\w.]*:[A-Za-z_]\w*",
}


@dataclass(frozen=True, slots=True)
class DataSource:
    """Files that Ray Data reads for a function, under a name."""

    name: str
    format: str
    paths: tuple[str, ...]

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"name": self.name, "format": self.format, "paths": list(self.paths)}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        source = cls(
            name=fields.text("name", max_chars=63),
            format=fields.choice("format", ("Csv", "Json", "Parquet", "Text")),
            paths=fields.texts("paths", max_items=64, max_chars=1024),
        )
        fields.refuse_unknown()
        return source


@dataclass(frozen=True, slots=True)
class Entrypoint:
    """What is run: `target` is a file, a module, a function or the first word of a command."""

    kind: EntrypointKind
    target: str
    args: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """The function's argument."""
    local_rank_arg: bool = True
    """Whether script and module are given --local_rank, as the launcher does."""
    sizing: str = "Job"
    """Whose numbers a driver program's ScalingConfig has: those of the Job, or of the Program."""
    per: str = "Rank"
    """Where a command runs: in every Rank, or once per Node, to start the ranks by a launcher."""
    data: tuple[DataSource, ...] = ()
    """What a function finds in ray.train.get_dataset_shard."""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        data = [source.to_wire() for source in self.data]
        return {**plain, "args": list(self.args), "config": dict(self.config), "data": data}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the JSON object."""
        kind = EntrypointKind(fields.choice("kind", tuple(EntrypointKind)))
        pattern = _TARGETS.get(kind, r"[^\x00]+")
        entrypoint = cls(
            kind=kind,
            target=fields.text("target", max_chars=2048, pattern=pattern),
            args=fields.texts("args", max_items=256, max_chars=4096),
            config=fields.mapping("config"),
            local_rank_arg=fields.flag("local_rank_arg"),
            sizing=fields.choice("sizing", ("Job", "Program")),
            per=fields.choice("per", ("Rank", "Node")),
            data=tuple(map(DataSource.from_fields, fields.sections("data", max_items=16))),
        )
        fields.refuse_unknown()
        return entrypoint
