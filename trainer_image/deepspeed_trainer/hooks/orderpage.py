"""The order page of a rank: the save that the head asks for, in shared memory.

The supervisor writes it, the program looks at it between optimizer steps.  Looking costs a load.
"""

from deepspeed_trainer.hooks.cells import SharedCells


class OrderPage(SharedCells):
    """Two steps, 0 for none: the one to save at, and the one that all ranks have agreed to."""

    COUNT = 2

    @property
    def save_at(self) -> int:
        """The step that is named."""
        return int(self.cells[0])

    @property
    def agreed(self) -> int:
        """The step that stays."""
        return int(self.cells[1])

    def write(self, save_at: int, *, is_agreed: bool) -> None:
        """Name a step; a program must never see one agreed that is not the one named."""
        self.cells[1] = save_at if is_agreed else 0
        self.cells[0] = save_at
