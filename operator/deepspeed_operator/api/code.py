"""Where the program comes from when the image does not hold it."""

from typing import Annotated

from pydantic import Field

from deepspeed_operator.api.checkpoint import SecretRef
from deepspeed_operator.api.schema import ApiModel, Name, rule, rules

_FOLDER = r"^([^/.][^/]*(/[^/.][^/]*)*)?$"

_GIT_URL_RULES = rules(
    rule(
        "self.matches('^(https|ssh)://')",
        "a git repository is reached by https:// or ssh://; git@host:path is ssh://host/path",
    ),
    rule(
        "!self.matches('^[a-z]+://[^/]*@')",
        "an address holds no user and no password: put them into a Secret and name it in secretRef"
        " (the user of ssh is git unless its key username says otherwise)",
    ),
    rule(
        "!self.contains('?') && !self.contains('#')",
        "an address holds no query and no fragment; the branch, tag or commit goes into ref",
    ),
    rule(
        "self.matches('^[a-z]+://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?/[A-Za-z0-9._~/+%-]+$')",
        "an address is a host, perhaps a port, and a path of plain characters",
    ),
)
_REF_RULES = rules(
    rule("!self.startsWith('-')", "a ref is a name, not an option: it cannot begin with '-'"),
    rule(
        "self.matches('^[A-Za-z0-9_][A-Za-z0-9._/@+#-]*$') && !self.contains('..')",
        "a ref is the name of one branch, tag or commit, without spaces, ':', '*', '~' or '..'",
    ),
)
_ARCHIVE_URI_RULES = rules(
    rule(
        "self.matches('^(https|s3|gs|abfs|abfss|storage)://')",
        "an archive lies at https://, s3://, gs://, abfs:// or, on the job's own storage,"
        " storage://folder/file",
    ),
    rule(
        "!self.matches('^[a-z0-9]+://[^/]*@') || self.matches('^abfss?://[a-z0-9-]+@[^/@]*/')",
        "an address holds no user and no password: put them into a Secret and name it in secretRef",
    ),
    rule(
        "!self.contains('?') && !self.contains('#')",
        "an address holds no query, no signature and no fragment; a Secret named in secretRef"
        " gives access",
    ),
    rule(
        "self.matches('^[a-z0-9]+://([a-z0-9-]+@)?[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?"
        "(/[A-Za-z0-9._~+%=,-]+)*$')",
        "an address is a host or bucket and a path of plain characters to one file",
    ),
    rule(
        "!self.matches('/[.]{1,2}(/|$)')",
        "an address goes straight to its file: no '.' and no '..' in its path",
    ),
)


class CodeVolume(ApiModel):
    """A folder of a claim."""

    claim: Name
    """Name of a PersistentVolumeClaim in the job's namespace that all nodes can mount."""
    path: Annotated[str, Field(max_length=1024, pattern=_FOLDER)] = ""
    """Folder in it, relative. Default the whole volume."""


class CodeConfigMap(ApiModel):
    """A ConfigMap whose keys are files."""

    name: Name
    """Name of a ConfigMap in the job's namespace."""


class CodeGit(ApiModel):
    """A commit of a git repository."""

    url: Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=_GIT_URL_RULES)]
    """Address of the repository: https://host/path or ssh://host/path."""
    ref: Annotated[str, Field(min_length=1, max_length=255, json_schema_extra=_REF_RULES)] = "HEAD"
    """Branch, tag or whole commit id. Default HEAD, the repository's own branch. What it means when
    the run begins, it means for all attempts of the run."""
    path: Annotated[str, Field(max_length=1024, pattern=_FOLDER)] = ""
    """Folder in it that becomes the code, relative. Default all of it."""
    secret_ref: SecretRef | None = None
    """Secret with the credentials. For https: username and password, or token; ca.crt for a private
    certificate. For ssh: ssh-privatekey and known_hosts. Only the container that fetches sees
    it."""


class CodeArchive(ApiModel):
    """A zip, tar or tar.gz file."""

    uri: Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra=_ARCHIVE_URI_RULES)]
    """Where it is: https://host/path, s3://bucket/key, gs://bucket/key,
    abfs://container@account.dfs.core.windows.net/key, or storage://folder/file on the job's own
    storage."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Its checksum, 64 hexadecimal digits, as sha256sum prints it."""
    path: Annotated[str, Field(max_length=1024, pattern=_FOLDER)] = ""
    """Folder in it that becomes the code, relative. Default all of it."""
    secret_ref: SecretRef | None = None
    """Secret with the credentials. For https as for git; for buckets the variables that
    storage.secretRef takes. Only the container that fetches sees it."""


class Code(ApiModel):
    """Where the program comes from when the image does not hold it: exactly one source.

    It is at /mnt/code, read-only, which then is the default working directory.
    """

    git: CodeGit | None = None
    """A commit of a git repository. Needs storage, where the run keeps its copy."""
    archive: CodeArchive | None = None
    """A zip, tar or tar.gz file. Needs storage, where the run keeps its copy."""
    config_map: CodeConfigMap | None = None
    """Files of a ConfigMap, executable. With storage, those that it holds when the run begins."""
    volume: CodeVolume | None = None
    """A folder of a claim."""
