"""What a job runs: its program, and what a function is given."""

from typing import Annotated, Literal

from pydantic import Field

from deepspeed_operator.api.schema import ATOMIC, ApiModel, RawObject, fixed, listed_by


class DataSource(ApiModel):
    """Files that Ray Data reads, which the function gets as ray.train.get_dataset_shard(name)."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the data set."""
    format: Literal["Csv", "Json", "Parquet", "Text"]
    """Format of the files; Json is one object a line, or a list."""
    paths: Annotated[
        list[Annotated[str, Field(max_length=1024, pattern=r"^/[^\x00]*$")]],
        Field(min_length=1, max_length=64, json_schema_extra=ATOMIC),
    ]
    """Files or folders, absolute, the same on all pods: in the image, the code or the storage."""


class Entrypoint(ApiModel):
    """What is run: exactly one of script, module, command, function and driver."""

    script: (
        Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=fixed("script"))]
        | None
    ) = None
    """Python file, relative to the working directory or absolute. One process per rank, started as
    the deepspeed launcher starts it (--local_rank, environment), unmodified."""
    module: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
                json_schema_extra=fixed("module"),
            ),
        ]
        | None
    ) = None
    """Python module, started like a script, by python -m."""
    command: (
        Annotated[
            list[Annotated[str, Field(max_length=2048)]],
            Field(min_length=1, max_length=128, json_schema_extra={**ATOMIC, **fixed("command")}),
        ]
        | None
    ) = None
    """Any program and its arguments, started once per rank with a rank's environment, or once per
    node (see per). It is given no argument beyond these; the DeepSpeed configuration is at
    $(DSJOB_DEEPSPEED_CONFIG)."""
    per: Annotated[Literal["Rank", "Node"], Field(json_schema_extra=fixed("per"))] = "Rank"
    """Where a command runs. Rank (default): in every rank. Node: once on every node, where it
    starts the ranks through deepspeed, torchrun, accelerate launch or mpirun; these start what
    belongs to the job and refuse what contradicts it. Fixed at creation."""
    function: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
                json_schema_extra=fixed("function"),
            ),
        ]
        | None
    ) = None
    """Importable train loop as package.module:function, called in each rank's process."""
    driver: (
        Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=fixed("driver"))]
        | None
    ) = None
    """Python file that makes its own TorchTrainer, run once on the head. What its RunConfig leaves
    open is filled in; every setting that gives way to the job's is told in status.run.overrides."""
    args: Annotated[
        list[Annotated[str, Field(max_length=2048)]],
        Field(max_length=128, json_schema_extra={**ATOMIC, **fixed("args")}),
    ] = []
    """Arguments of script, module or driver. Default none. In these, as in command, $(NAME) stands
    for an environment variable of the process."""
    config: RawObject | None = None
    """The function's argument, when it takes one."""
    data: Annotated[
        list[DataSource],
        Field(max_length=16, json_schema_extra={**listed_by("name"), **fixed("data")}),
    ] = []
    """What a function trains from by Ray Data; every set is split over the ranks. Default none.
    Fixed at creation."""
    local_rank_arg: Annotated[bool, Field(json_schema_extra=fixed("localRankArg"))] = True
    """Whether script and module are given --local_rank=N. Default true. Fixed at creation."""
    distributed: Annotated[bool, Field(json_schema_extra=fixed("distributed"))] = True
    """Whether the ranks have to make a process group of all ranks and to end together; a run in
    which they do not fails. Default true. Fixed at creation."""
    sizing: Annotated[Literal["Job", "Program"], Field(json_schema_extra=fixed("sizing"))] = "Job"
    """Whose size a driver's ScalingConfig gets. Job (default): nodes x gpusPerNode and the job's
    accelerator replace its own. Program: it is kept, and refused if it is not the job's. Fixed at
    creation."""
    working_dir: (
        Annotated[
            str,
            Field(
                max_length=1024,
                pattern=r"^/[^\x00]*$",
                json_schema_extra=fixed("workingDir"),
            ),
        ]
        | None
    ) = None
    """Working directory of the program, absolute. Default: where code is mounted, else the image's.
    Fixed at creation."""
