"""`python -m deepspeed_trainer.source`: the init container that brings the code.

It answers in its termination message, which the kubelet puts into the pod's status: the operator
needs no way to this pod, and the pod no right to the API.
"""

import os
import resource
import sys
from pathlib import Path
from typing import Final

from deepspeed_trainer.contract import (
    CODE_ENV,
    CODE_MOUNT,
    REFUSED,
    CodeFault,
    CodeOrder,
    CodeReport,
    ContractError,
)
from deepspeed_trainer.source.bring import bring
from deepspeed_trainer.source.faults import CodeError
from deepspeed_trainer.source.pack import MAX_BYTES

_ANSWER: Final = Path("/dev/termination-log")


def main() -> int:
    """Bring the code; the exit code is 0 when it is there."""
    # For this process and for git: no download, pack or copy grows beyond it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MAX_BYTES, 2 * MAX_BYTES))
    report = _bring()
    _ANSWER.write_text(report.to_json())
    print(report.to_json(), flush=True)  # noqa: T201  the container's log
    return 0 if report.fault is None else 1


def _bring() -> CodeReport:
    try:
        order = CodeOrder.from_json(os.environ[CODE_ENV])
    except (KeyError, ContractError) as error:
        return CodeReport(fault=CodeFault(REFUSED, f"the operator's order cannot be read: {error}"))
    try:
        return CodeReport(frozen=bring(order, Path(CODE_MOUNT)))
    except CodeError as error:
        return CodeReport(fault=error.fault)


if __name__ == "__main__":
    sys.exit(main())
