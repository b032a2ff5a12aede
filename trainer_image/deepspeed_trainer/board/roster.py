"""The ranks of a round: who is there, and who has ended and how. Pure."""

from collections.abc import Mapping
from typing import Any

from deepspeed_trainer.board.failures import RankEnd
from deepspeed_trainer.board.ranks import RankState


class Roster:
    """The ranks that said hello in the round that is on; those of earlier rounds are remembered."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self.ranks: dict[int, RankState] = {}
        self._before: dict[int, RankState] = {}
        self.first_end_at: float | None = None
        """When the first program of the round ended."""

    def add(self, rank: int, hello: Mapping[str, Any]) -> None:
        """A rank's supervisor is up."""
        self.ranks[rank] = RankState(
            hello["pod"], hello["pod_uid"], hello["address"], int(hello["port"])
        )

    @property
    def is_complete(self) -> bool:
        """Whether all ranks have said hello."""
        return len(self.ranks) == self._world_size

    @property
    def has_ended(self) -> bool:
        """Whether every rank of the job came, and its program ended."""
        return self._count_ended() >= self._world_size

    def end(self, rank: int, end: Mapping[str, Any], now: float) -> None:
        """A rank's program ended; `end` are fields of RankEnd."""
        state = self.ranks[rank]
        self.first_end_at = self.first_end_at or now
        state.end = _describe_end(rank, state, self._count_ended(), **end)

    def lose(self, lost: Mapping[int, str]) -> None:
        """The processes of these ranks are gone without a word, and why.

        A rank that was to say hello in this round counts by what it was in the one before.
        """
        for rank, why in lost.items():
            if rank not in self.ranks and rank in self._before:
                gone = self._before[rank]
                self.ranks[rank] = RankState(gone.pod, gone.pod_uid, gone.address, gone.port)
            state = self.ranks.get(rank)
            if state is not None and state.end is None:
                state.verdict_message = state.verdict_message or why
                ended = self._count_ended()
                state.end = _describe_end(rank, state, ended, exit_code=1, lost=True)

    def ends(self) -> list[RankEnd]:
        """All ranks as ends; one that still runs counts as an end without a word."""
        ended = self._count_ended()
        return [
            state.end or _describe_end(rank, state, ended, exit_code=0, lost=True)
            for rank, state in self.ranks.items()
        ]

    def begin_round(self) -> None:
        """Wait for the ranks' hello anew."""
        self._before, self.ranks = {**self._before, **self.ranks}, {}
        self.first_end_at = None

    def _count_ended(self) -> int:
        return sum(1 for state in self.ranks.values() if state.end)


def _describe_end(rank: int, state: RankState, order: int, **end: Any) -> RankEnd:
    return RankEnd(
        rank=rank,
        node=state.pod,
        order=order,
        verdict=state.verdict,
        verdict_message=state.verdict_message,
        steps=state.steps,
        begun=state.begun,
        **end,
    )
