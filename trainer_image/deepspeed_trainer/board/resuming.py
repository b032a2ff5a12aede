"""How the ranks of a round come to what they continue from: chosen, read by all, or chosen anew.

Pure.  The choice itself is `storage`'s business.
"""

from deepspeed_trainer.board.ranks import Resume
from deepspeed_trainer.manifest import NOT_LOOKED_AT


class Resuming:
    """One round's way from the choice of a checkpoint to ranks that have read it."""

    def __init__(self, world_size: int) -> None:
        self.passed_over: str | None = None
        """What was not taken though it is newer, and why; stays over all rounds."""
        self.converted: str | None = None
        """Which checkpoint of another number of ranks was converted; stays over all rounds."""
        self.unresizable: str | None = None
        """Why the newest checkpoint cannot be converted for another number of ranks."""
        self.chosen: Resume | None = None
        self._world_size = world_size
        self._prepared: set[int] = set()

    @property
    def notices(self) -> tuple[str | None, ...]:
        """What a user should know of what this run continues from, and could continue from."""
        return self.passed_over, self.converted, self.unresizable

    def note_saved(self, unresizable: str) -> None:
        """A checkpoint counts; say now, not on the day of a loss, what cannot be done with it."""
        is_known = unresizable not in ("", NOT_LOOKED_AT)
        said = f"this run cannot continue with another number of ranks: {unresizable}"
        self.unresizable = said if is_known else None

    def begin_round(self) -> None:
        """The ranks start again, and a newer checkpoint may be there."""
        self.chosen, self._prepared = None, set()

    def choose(self, resume: Resume, passed_over: str | None) -> None:
        """The checkpoint to continue from was chosen."""
        self.chosen, self._prepared = resume, set()
        self.passed_over = passed_over or self.passed_over

    def note_prepared(self, rank: int, number: int) -> None:
        """A rank has read its files of the chosen checkpoint, and they are what was saved."""
        if self.chosen is not None and number == self.chosen.number:
            self._prepared.add(rank)

    def note_settled(self, number: int) -> bool:
        """The choice became void: damage was found, or a converted copy is there to choose.

        False when that was known already.
        """
        if self.chosen is None or number != self.chosen.number:
            return False
        self.chosen = None
        return True

    @property
    def is_ready(self) -> bool:
        """Whether all ranks may start."""
        return self.chosen is not None and len(self._prepared) == self._world_size


def describe_ignored(path: str, step: int) -> str:
    """Return the sentence on a program that began anew and did not load its checkpoint."""
    return (
        f"the program began anew and did not load checkpoint {path}: its {step} steps are lost;"
        " load it with load_checkpoint from the folder that the program saved it to, or from"
        " ray.train.get_checkpoint()"
    )
