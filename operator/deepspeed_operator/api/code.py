"""Where the program comes from when the image does not hold it."""

from typing import Annotated

from pydantic import Field

from deepspeed_operator.api.schema import ApiModel, Name


class CodeVolume(ApiModel):
    """A folder of a claim."""

    claim: Name
    """Name of a PersistentVolumeClaim in the job's namespace that all nodes can mount."""
    path: Annotated[str, Field(max_length=1024, pattern=r"^([^/.][^/]*(/[^/.][^/]*)*)?$")] = ""
    """Folder in it, relative. Default the whole volume."""


class CodeConfigMap(ApiModel):
    """A ConfigMap whose keys are files."""

    name: Name
    """Name of a ConfigMap in the job's namespace."""


class Code(ApiModel):
    """Where the program comes from when the image does not hold it: exactly one source.

    It is mounted read-only at /mnt/code, which then is the default working directory.
    """

    config_map: CodeConfigMap | None = None
    """Files of a ConfigMap, executable."""
    volume: CodeVolume | None = None
    """A folder of a claim."""
