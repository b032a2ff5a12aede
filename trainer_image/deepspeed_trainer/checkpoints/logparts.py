"""Logs on their way to a bucket, where nothing can be appended to: part by part.

A part that is full is never sent again, so that a log of weeks costs its own size and no more.
"""

from pathlib import Path
from typing import Final

from deepspeed_trainer.checkpoints.stores import Store

PART_BYTES: Final = 8 * 1024 * 1024


class LogParts:
    """What of each log is in the bucket; `folder` is the attempt's, below the store's root."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._sent: dict[Path, int] = {}

    def bring(self, log: Path, below: str) -> None:
        """Write what is new of a log; `below` is the folder of logs in the attempt's.

        Raises:
            OSError: the bucket cannot be written.
        """
        size, sent = log.stat().st_size, self._sent.get(log, 0)
        if size < sent:
            sent = 0  # begun anew
        with log.open("rb") as file:
            for start in range(sent - sent % PART_BYTES, size, PART_BYTES):
                file.seek(start)
                data = file.read(min(PART_BYTES, size - start))
                if start + len(data) > sent:
                    name = name_part(log.name, start // PART_BYTES)
                    self._store.write(f"{self._folder}/{below}/{name}", data)
                    self._sent[log] = start + len(data)


def name_part(name: str, number: int) -> str:
    """Return the name of a part, counted from 0: rank-00000.log, rank-00000.2.log and so on."""
    if number == 0:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{number + 1}{dot}{suffix}" if dot else f"{name}.{number + 1}"
