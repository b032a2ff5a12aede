"""Whether the job's storage has room for saves, as far as the saves have shown. Pure."""

from deepspeed_trainer.progress import MAX_MESSAGE_CHARS


class Room:
    """Stays over all rounds of an attempt."""

    def __init__(self) -> None:
        self._skipped: tuple[int, str] | None = None

    def note_full(self, number: int, message: str) -> None:
        """A save found no room."""
        self._skipped = max(self._skipped or (0, ""), (number, message[:MAX_MESSAGE_CHARS]))

    def note_committed(self, number: int) -> None:
        """A save counts; that shows room if it came after the one that found none."""
        if self._skipped is not None and number > self._skipped[0]:
            self._skipped = None

    @property
    def lack(self) -> str | None:
        """Why the newest save was skipped for want of room; None when it was not."""
        return self._skipped[1] if self._skipped else None
