"""Which ranks a hang hangs on, and the sentence that says so. Pure.

Most ranks of a hung attempt wait in a collective for the few that did not come; those are named.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepspeed_trainer.board.beats import STOPPED_STATES, Beat, Phase, Stack
from deepspeed_trainer.board.failures import name_ranks


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a rank stands still: its last heartbeat and its last stack dump."""

    beat: Beat
    stack: Stack


def find_minority(stands: Mapping[int, Stand]) -> list[int]:
    """Return the ranks that the others wait for; none when all stand in the same place.

    Those that wait in no collective, if they are not more than half; else those that stand
    elsewhere than most.  Of two equal halves the one outside the engine is named.
    """
    idle = [rank for rank, stand in stands.items() if stand.stack.waits_in is None]
    if idle and 2 * len(idle) <= len(stands):
        return sorted(idle)
    places = {rank: _place_of(stand) for rank, stand in stands.items()}
    sizes = Counter(places.values())
    if len(sizes) < 2:
        return []
    most = max(sizes, key=lambda place: (sizes[place], place[0] != Phase.PROGRAM))
    return sorted(rank for rank, place in places.items() if place != most)


def describe(stands: Mapping[int, Stand]) -> str:
    """Return who stands where, the minority first: `rank 3 is in forward of step 41 (a.py:8)`."""
    few = find_minority(stands)
    many = [rank for rank in sorted(stands) if rank not in few]
    parts = [
        f"{name_ranks(ranks)} {'are' if len(ranks) > 1 else 'is'} {_say(stands[ranks[0]])}"
        for ranks in _group(few, stands)
    ]
    first = stands[many[0]]
    who = "the others" if few and len(many) > 1 else name_ranks(many)
    verb = "wait" if len(many) > 1 else "waits"
    if first.stack.waits_in is not None:
        parts.append(f"{who} {verb} in {first.stack.waits_in}{_in_phase(first.beat)}")
    else:
        parts.append(f"{who} {'are' if len(many) > 1 else 'is'} {_say(first)}")
    return ", ".join(parts)


def _place_of(stand: Stand) -> tuple[str, ...]:
    beat, stack = stand.beat, stand.stack
    return (beat.phase, str(beat.step), str(stack.place), str(stack.waits_in))


def _group(ranks: Sequence[int], stands: Mapping[int, Stand]) -> list[list[int]]:
    """Return ranks by what is said of them; at most three groups, the rest is left out."""
    said: dict[str, list[int]] = {}
    for rank in ranks:
        said.setdefault(_say(stands[rank]), []).append(rank)
    return list(said.values())[:3]


def _say(stand: Stand) -> str:
    beat, stack = stand.beat, stand.stack
    place = f" ({stack.place})" if stack.place else ""
    text = f"{_where(beat)}{place}"
    if not stack.answered:
        return f"{text}, its supervisor does not answer"
    if stack.state in STOPPED_STATES:
        return f"{text}, stopped by a signal"
    if stack.state == "D":
        return f"{text}, waiting for a disk"
    return f"{text}, waiting in {stack.waits_in}" if stack.waits_in else text


def _where(beat: Beat) -> str:
    if beat.phase is Phase.PROGRAM:
        return f"outside the engine after step {beat.step}"
    if beat.phase in (Phase.FORWARD, Phase.BACKWARD, Phase.STEP):
        return f"in {beat.phase} of step {beat.step + 1}"
    return f"in {beat.phase} after step {beat.step}"


def _in_phase(beat: Beat) -> str:
    return f" {_where(beat)}" if beat.phase is not Phase.PROGRAM else ""
