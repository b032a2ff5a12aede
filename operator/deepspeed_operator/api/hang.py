"""spec.hang: when ranks that no longer move count as hung."""

from typing import Annotated

from pydantic import Field

from deepspeed_operator.api.schema import ApiModel


class Hang(ApiModel):
    """When ranks that no longer move count as hung, and the attempt fails.

    Watched from the third step on. Forward, backward, step, eval, save, load and the program's own
    code between them are phases, and each learns its limit.
    """

    enabled: bool = True
    """Whether hangs are looked for. Default true."""
    min_seconds: Annotated[int, Field(ge=1, le=86400)] = 180
    """Shortest limit of a phase in seconds. Default 180."""
    factor: Annotated[int, Field(ge=2, le=1000)] = 5
    """A phase's limit is this many times the longest of its last stays, if that is more. Default
    5."""
    start_deadline_seconds: Annotated[int, Field(ge=1, le=604800)] = 1800
    """Limit in seconds of a phase that was not seen before, and of a rank that works where it
    stands (its processes use CPU or move bytes). Default 1800."""
