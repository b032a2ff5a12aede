"""A save that finds no room is skipped on all ranks, and the program trains on.

A file that cannot be written for want of room is passed over where DeepSpeed writes it, so that
all ranks come through its barriers alike; then they agree that the save is none.  What they wrote
of it goes, and `latest` says again what it said before.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from deepspeed_trainer.checkpoints.files import files_below, lacks_room, owner_of

PROBE_BYTES: Final = 64 * 1024
"""Torch's own writer does not say why it failed; whether this little fits, does."""
_TORCH_WRITER: Final = ("PytorchStreamWriter", "inline_container", "iostream error")


class SaveRoom:
    """One rank's save, as far as room is concerned."""

    def __init__(self) -> None:
        self._lack: str | None = None
        self._latest: tuple[Path, bytes | None] | None = None

    def begin(self, folder: Path) -> None:
        """Before a save into `folder`: what `latest` says now is wanted when there is no room."""
        self._lack = None
        latest = folder / "latest"
        self._latest = latest, latest.read_bytes() if latest.is_file() else None

    def guard(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """Return DeepSpeed's `save(engine, state_dict, path)` that passes over a full disk.

        It tries twice, because another rank that was passed over has left its room.
        """

        @functools.wraps(write)
        def write_or_pass(engine: Any, state_dict: Any, path: Any, *args: Any, **kw: Any) -> Any:
            try:
                return write(engine, state_dict, path, *args, **kw)
            except (OSError, RuntimeError) as error:
                if not _is_of_disk(error):
                    raise
                if self._note_lack(error, Path(path)):
                    return None
            try:
                return write(engine, state_dict, path, *args, **kw)
            except (OSError, RuntimeError) as error:
                if not self._note_lack(error, Path(path)):
                    raise
                return None

        return write_or_pass

    def agree(self) -> str | None:
        """Return why this save is to be skipped, on all ranks when one of them found no room."""
        import torch  # noqa: PLC0415  imported long ago by the program
        from deepspeed import comm  # noqa: PLC0415
        from deepspeed.accelerator import get_accelerator  # noqa: PLC0415

        device = get_accelerator().current_device_name()
        lacking = torch.tensor([int(self._lack is not None)], device=device)
        comm.all_reduce(lacking)
        count = int(lacking.item())
        return (self._lack or f"{count} other ranks had no room") if count else None

    def take_back(self, folder: Path, tag: str, rank: int) -> None:
        """Remove what this rank wrote of a save; rank 0 puts `latest` right."""
        for path in list(files_below(folder / tag)):
            if owner_of(path.name) == rank:
                path.unlink(missing_ok=True)
        if rank != 0 or self._latest is None:
            return
        latest, said = self._latest
        if said is None:
            latest.unlink(missing_ok=True)
        else:
            latest.write_bytes(said)

    def _note_lack(self, error: BaseException, path: Path) -> bool:
        """Whether it was for want of room; then what was written of the file goes."""
        found = lacks_room(error) or (_is_of_disk(error) and not _has_room(path.parent))
        if found:
            self._lack = f"no room for {path.parent.name}/{path.name}"
            path.unlink(missing_ok=True)
        return found


def _is_of_disk(error: BaseException) -> bool:
    return lacks_room(error) or any(word in str(error) for word in _TORCH_WRITER)


def _has_room(folder: Path) -> bool:
    probe = folder / f".room-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"\1" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return not lacks_room(error)
    finally:
        probe.unlink(missing_ok=True)
    return True
