"""How the ranks of a round come to what they continue from: chosen, read by all, or chosen anew.

Pure.  The choice itself is `storage`'s business.
"""

from deepspeed_trainer.board.ranks import Resume


class Resuming:
    """One round's way from the choice of a checkpoint to ranks that have read it."""

    def __init__(self, world_size: int) -> None:
        self.passed_over: str | None = None
        """What was not taken though it is newer, and why; stays over all rounds."""
        self.chosen: Resume | None = None
        self._world_size = world_size
        self._prepared: set[int] = set()

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

    def note_damaged(self, number: int) -> bool:
        """A rank found damage; another must be chosen. False when that was known already."""
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
