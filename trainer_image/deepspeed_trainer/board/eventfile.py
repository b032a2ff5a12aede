"""events.jsonl of an attempt: appended to on a volume, uploaded now and then to a bucket.

A bucket's object is written as a whole, and a thousand ranks fill a megabyte with each save: what
is full is followed by events-2.jsonl and on.
"""

from typing import Final

from deepspeed_trainer.checkpoints.stores import Store

UPLOAD_EVERY_S: Final = 60.0
NAME: Final = "events.jsonl"
PART_BYTES: Final = 4 * 1024 * 1024
"""A part that has so much is full; it is neither kept in memory nor sent again."""


class EventFile:
    """The lines of one attempt; `folder` is the attempt's, below the store's root."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._part = 1
        self._place = store.place_of(f"{folder}/{NAME}")
        self._lines: list[str] = []
        self._uploaded = 0
        self._uploaded_at: float | None = None

    def add(self, line: str) -> None:
        """Take a line.

        Raises:
            OSError: the volume cannot be written.
        """
        if self._place is None:
            self._lines.append(line + "\n")
            return
        self._place.parent.mkdir(parents=True, exist_ok=True)
        with self._place.open("a") as file:
            file.write(line + "\n")

    def is_due(self, now: float) -> bool:
        """Whether it is time to upload; the clock starts with the first question."""
        if self._uploaded_at is None:
            self._uploaded_at = now
        if self._place is not None or now - self._uploaded_at < UPLOAD_EVERY_S:
            return False
        self._uploaded_at = now
        return True

    def upload(self) -> None:
        """Write the lines of the last part to the bucket, when there are new ones."""
        count = len(self._lines)
        if count <= self._uploaded:
            return
        text = "".join(self._lines[:count]).encode()
        name = NAME if self._part == 1 else f"events-{self._part}.jsonl"
        self._store.write(f"{self._folder}/{name}", text)
        self._uploaded = count
        if len(text) >= PART_BYTES:
            del self._lines[:count]
            self._uploaded = 0
            self._part += 1
