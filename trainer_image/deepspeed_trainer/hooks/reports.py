"""What a program gives to ray.train.report, and what ray.train.get_checkpoint answers it.

A reported checkpoint becomes one of ours: every rank describes the files that it handed in, and
the board commits a manifest when all have.  The answer to get_checkpoint is our newest committed
one, because Ray's own list counts a checkpoint when it was polled and is not written atomically.
Parts of Ray Train that have no public name are touched here alone (`TrainFnUtils` is made to be
replaced, its docstring says).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow.fs
from ray.train import Checkpoint, CheckpointUploadMode, UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution import train_fn_utils
from ray.train.v2._internal.execution.context import get_train_context
from typing_extensions import override

from deepspeed_trainer.board.lookup import find_board
from deepspeed_trainer.hooks.meter import format_decimal
from deepspeed_trainer.hooks.resumed import Resumed
from deepspeed_trainer.hooks.wire import Report

Upload = Callable[[Any, str], Any]
AT_ONCE: Final = (
    "ray.train.report's checkpoint_upload_mode: ASYNC became SYNC, so that a checkpoint has the"
    " step that it was reported at and counts in its turn; a NO_UPLOAD report waits for no copy"
)


class BoardReports(UserCallback):  # type: ignore[misc]
    """Shows on the board what ranks reported and how they died; runs in Ray Train's controller."""

    def __init__(self, submission_id: str, restart: int) -> None:
        self._submission_id = submission_id
        self._restart = restart

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002  Ray's signature
        metrics: list[Mapping[str, Any]],
        checkpoint: Any,  # noqa: ARG002
    ) -> None:
        """Take the numbers of rank 0's metrics."""
        numbers = {
            str(name)[:128]: format_decimal(float(value))
            for name, value in metrics[0].items()
            if isinstance(value, int | float)
        }
        find_board().note_metrics.remote(self._submission_id, numbers)

    def after_exception(
        self,
        run_context: Any,  # noqa: ARG002
        worker_exceptions: Mapping[int, Exception],
    ) -> None:
        """Tell which workers died; what others raised they have told themselves."""
        lost = {
            rank: f"{type(error).__name__}: {error}"[:500]
            for rank, error in worker_exceptions.items()
            if isinstance(error, WorkerHealthCheckFailedError)
        }
        if lost:
            find_board().note_lost.remote(self._submission_id, lost, self._restart)


def answer_for(report: Report, progress: Callable[[], Mapping[str, Any]], resume: str) -> None:
    """Let this worker's ray.train calls go through us; `resume` is a folder, or empty."""
    train_fn_utils.set_train_fn_utils(OwnTrainFnUtils(report, progress, resume))


class OwnTrainFnUtils(train_fn_utils.DistributedTrainFnUtils):  # type: ignore[misc]
    """Ray Train's calls with our checkpoints."""

    def __init__(
        self, report: Report, progress: Callable[[], Mapping[str, Any]], resume: str
    ) -> None:
        self._report = report
        self._progress = progress
        self._resume = resume
        self._reported = 0
        self._has_told = False

    @override
    def get_checkpoint(self) -> Any:
        """Return the checkpoint that this attempt continues from."""
        Resumed.from_env().note_taken()
        return Checkpoint.from_directory(self._resume) if self._resume else super().get_checkpoint()

    @override
    def report(  # the signature is Ray's
        self,
        metrics: dict[str, Any],
        checkpoint: Any = None,
        checkpoint_dir_name: str | None = None,
        checkpoint_upload_mode: Any = CheckpointUploadMode.SYNC,
        delete_local_checkpoint_after_upload: bool | None = None,
        checkpoint_upload_fn: Upload | None = None,
        validation: Any = False,
    ) -> None:
        """Report as Ray does, and describe the files of the checkpoint once they are there."""
        self._reported += 1
        name = checkpoint_dir_name or f"report-{self._reported:05d}"
        storage = get_train_context().storage_context
        is_ours = isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem)
        in_place = checkpoint_upload_mode is CheckpointUploadMode.NO_UPLOAD
        if checkpoint is not None:
            self._report({"kind": "unsaved", "folder": checkpoint.path})
        is_later = checkpoint_upload_mode is CheckpointUploadMode.ASYNC
        if is_ours and is_later and checkpoint is not None:
            checkpoint_upload_mode = self._refuse_later()
            if delete_local_checkpoint_after_upload is None:
                delete_local_checkpoint_after_upload = True  # as Ray does after this mode
        upload = checkpoint_upload_fn
        if is_ours and checkpoint is None:
            self._note(storage.build_checkpoint_path_from_name(name), [])
        elif is_ours and not in_place:
            upload = self._noting(upload or storage.persist_current_checkpoint)
        super().report(
            metrics,
            checkpoint,
            name,
            checkpoint_upload_mode,
            delete_local_checkpoint_after_upload,
            upload if checkpoint is not None else None,
            validation,
        )
        if is_ours and checkpoint is not None and in_place:
            self._note(checkpoint.path, files_below(checkpoint.path))

    def _refuse_later(self) -> Any:
        """Several uploads end in any order, and by then the program has taken further steps."""
        if not self._has_told:
            self._has_told = True
            self._report({"kind": "advice", "message": AT_ONCE})
        return CheckpointUploadMode.SYNC

    def _noting(self, upload: Upload) -> Upload:
        def upload_and_note(checkpoint: Any, name: str) -> Any:
            files = files_below(checkpoint.path)
            persisted = upload(checkpoint, name)
            self._note(persisted.path, files)
            return persisted

        return upload_and_note

    def _note(self, folder: str, files: list[str]) -> None:
        fact = {"kind": "saved", "folder": folder, "tag": Path(folder).name, "paths": files}
        self._report({**fact, **self._progress()})
        self._report({"kind": "save_end"})


def files_below(folder: str) -> list[str]:
    """Return the files of a folder, as paths below it."""
    root = Path(folder)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
