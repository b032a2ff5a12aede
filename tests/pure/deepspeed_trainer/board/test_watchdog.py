"""When an attempt is hung and when it only looks so, on a simulated clock."""

from collections.abc import Sequence

import pytest

from deepspeed_trainer.board.beats import Beat, Phase, Stack
from deepspeed_trainer.board.stuck import Stand, describe, find_minority
from deepspeed_trainer.board.watchdog import Hang
from tests.pure.deepspeed_trainer.board.simulation import (
    FOR_EVER_S,
    Simulation,
    Stay,
    a_step,
    all_alike,
    computing,
    moving,
    steps,
    still,
    stopped,
    waiting,
    writing,
)

STEP_S = 3.0
TEN_STEPS_S = 10 * STEP_S
WAITS = Stay(Phase.FORWARD, FOR_EVER_S, waiting)


def in_user_code(dump: object = still, lasting_s: float = FOR_EVER_S, **more: bool) -> Stay:
    return Stay(Phase.PROGRAM, lasting_s, dump, **more)  # type: ignore[arg-type]


def four(odd: Sequence[Stay], others: Sequence[Stay], before: int = 10) -> Simulation:
    """Four ranks that do some steps; then rank 3 goes one way and the others another."""
    lives = [[*steps(before), *others] for _ in range(3)]
    return Simulation(*lives, [*steps(before), *odd])


def test_a_rank_that_hangs_in_its_own_code_is_named() -> None:
    hang = four([in_user_code()], [*a_step()[:1], WAITS]).run(10_000)
    assert hang is not None
    assert hang.rank == 3
    assert hang.message.startswith(
        "rank 3 is outside the engine after step 10 (train.py:88),"
        " the others wait in all_gather_into_tensor in forward of step 11; no rank has moved for"
    )
    assert "(limit of program: 180 s)" in hang.message


def test_a_hang_is_found_within_twenty_seconds_of_the_limit() -> None:
    simulation = four([in_user_code()], [WAITS])
    assert simulation.run(10_000) is not None
    assert 190 <= simulation.now - TEN_STEPS_S <= 200


def test_two_dumps_come_first() -> None:
    simulation = four([in_user_code()], [WAITS])
    assert simulation.run(TEN_STEPS_S + 180) is None
    assert simulation.orders == []
    simulation.run(10_000)
    assert [order.name for order in simulation.orders] == ["1-first", "1-second"]


def test_a_limit_is_learned_from_the_longest_stay() -> None:
    slow = [*steps(5), *a_step(forward=60.0)]
    lives = [[*slow, *steps(2), WAITS] for _ in range(2)]
    simulation = Simulation(*lives)
    hang = simulation.run(10_000)
    assert hang is not None
    assert "(limit of forward: 300 s)" in hang.message


@pytest.mark.parametrize(
    ("policy", "limit"),
    [({"min_s": 20}, 20), ({"min_s": 20, "factor": 40}, 40), ({"factor": 200}, 200)],
)
def test_the_policy_sets_the_limit(policy: dict[str, int], limit: int) -> None:
    lives = all_alike(2, lambda: [*steps(5), WAITS])
    hang = Simulation(*lives, **policy).run(10_000)
    assert hang is not None
    assert f"(limit of forward: {limit} s)" in hang.message


def test_a_phase_never_seen_before_has_the_start_deadline() -> None:
    lives = all_alike(2, lambda: [*steps(5), Stay(Phase.SAVE, FOR_EVER_S, waiting)])
    simulation = Simulation(*lives, start_deadline_s=500)
    assert simulation.run(15 + 499) is None
    hang = simulation.run(10_000)
    assert hang is not None
    assert "(limit of save: 500 s)" in hang.message


def test_a_watchdog_that_is_off_never_barks() -> None:
    lives = all_alike(2, lambda: [*steps(5), WAITS])
    assert Simulation(*lives, enabled=False).run(10_000) is None


def test_nobody_is_killed_before_the_third_step() -> None:
    lives = all_alike(2, lambda: [*steps(2), WAITS])
    assert Simulation(*lives).run(10_000) is None


def test_a_rank_without_heartbeats_disarms() -> None:
    simulation = Simulation([*steps(10), WAITS], [in_user_code(silent=True)])
    assert simulation.run(5_000) is None
    assert simulation.watchdog.silent_ranks() == [1]


NO_KILL: dict[str, Sequence[Stay]] = {
    "a slow first batch": [*a_step(program=900.0), *steps(30)],
    "a slow first batch in one native call": [
        in_user_code(computing, 900.0),
        *steps(30),
    ],
    "eval ten times a step": [
        stay
        for _ in range(40)
        for stay in (*a_step(), *([Stay(Phase.EVAL, 20.0), Stay(Phase.PROGRAM, 0.1)] * 10))
    ],
    "a save of minutes": [
        *steps(10),
        Stay(Phase.SAVE, 1500.0, writing),
        *steps(10),
        Stay(Phase.SAVE, 1700.0, writing),
        *steps(10),
    ],
    "a save that stands still for less than the start deadline": [
        *steps(10),
        Stay(Phase.SAVE, 1700.0, still),
        *steps(10),
    ],
    "a later save that takes four times as long": [
        *steps(10),
        Stay(Phase.SAVE, 100.0, still),
        *steps(10),
        Stay(Phase.SAVE, 400.0, still),
        *steps(10),
    ],
    "a recompile at step 50": [*steps(50), *a_step(forward=1200.0), *steps(20)],
    "a recompile in other processes": [
        *steps(50),
        Stay(Phase.FORWARD, 1200.0, computing),
        *a_step()[1:],
        *steps(20),
    ],
    "validation in one native call": [*steps(50), in_user_code(computing, 1500.0), *steps(20)],
    "a validation of the program's own": [*steps(50), in_user_code(moving, 5000.0), *steps(20)],
    "a short stop by a signal": [*steps(20), in_user_code(stopped, 60.0), *steps(20)],
    "a stop that ends between the dumps": [*steps(20), in_user_code(stopped, 185.0), *steps(20)],
}


@pytest.mark.parametrize("case", NO_KILL)
def test_no_kill_for(case: str) -> None:
    total_s = sum(stay.lasting_s for stay in NO_KILL[case])
    simulation = Simulation(*all_alike(2, lambda: NO_KILL[case]))
    assert simulation.run(total_s) is None
    assert simulation.ranks[0].done >= 15, "the program did not get on"


def test_no_kill_while_one_rank_works_for_the_others() -> None:
    upload = [in_user_code(writing, 1500.0), *steps(5)]
    waits = Stay(Phase.FORWARD, 1501.0, waiting)
    simulation = four(upload, [waits, *a_step()[2:], *steps(5)])
    assert simulation.run(10_000) is None


def test_one_that_works_where_it_stands_is_given_the_start_deadline_and_no_more() -> None:
    simulation = four([in_user_code(computing)], [WAITS])
    assert simulation.run(TEN_STEPS_S + 1800) is None
    hang = simulation.run(10_000)
    assert hang is not None
    assert hang.rank == 3
    assert hang.still_s < 1800 + 140


def test_ranks_that_wait_may_spin() -> None:
    """On a GPU a rank that waits keeps a core busy; that is no sign of work."""

    def spinning(now: float) -> Stack:
        return Stack(state="R", fingerprint="w", waits_in="all_reduce", cpu_s=now)

    spins = Stay(Phase.FORWARD, FOR_EVER_S, spinning)
    simulation = four([in_user_code()], [spins])
    assert simulation.run(TEN_STEPS_S + 201) is not None


def test_a_rank_that_stays_stopped_is_named() -> None:
    hang = four([in_user_code(stopped)], [WAITS]).run(10_000)
    assert hang is not None
    assert hang.message.startswith(
        "rank 3 is outside the engine after step 10, stopped by a signal"
    )


def test_a_rank_that_cannot_be_asked_is_given_the_start_deadline_and_named_then() -> None:
    """Its supervisor may be bringing its files to safety, or wait for Python's lock."""
    odd = [*a_step()[:2], Stay(Phase.BACKWARD, FOR_EVER_S, still, silent=True)]
    simulation = four(odd, [*a_step()[:1], WAITS])
    assert simulation.run(TEN_STEPS_S + 1800) is None
    hang = simulation.run(10_000)
    assert hang is not None
    assert hang.rank == 3
    assert "its supervisor does not answer" in hang.message


def test_a_rank_that_has_ended_is_not_waited_for() -> None:
    simulation = four([in_user_code(silent=True)], [WAITS])
    simulation.run(TEN_STEPS_S + 1)
    simulation.watchdog.note_end(3)
    hang = simulation.run(10_000)
    assert hang is not None
    assert hang.message.startswith("ranks 0-2 wait in all_gather_into_tensor")


def test_ranks_that_start_anew_are_watched_anew() -> None:
    simulation = four([in_user_code()], [WAITS])
    simulation.run(TEN_STEPS_S + 185)
    assert simulation.orders
    simulation.watchdog.restart()
    assert simulation.watchdog.dump_for(0) is None
    assert not simulation.watchdog.is_armed


def stand(waits_in: str | None, place: str, phase: Phase = Phase.FORWARD, step: int = 40) -> Stand:
    beat = Beat(phase=phase, step=step, steps=step, age_s=0.0)
    return Stand(beat, Stack(state="S", fingerprint=place, place=place, waits_in=waits_in))


GATHER = stand("all_gather", "train.py:60")
SENTENCES: dict[str, tuple[list[Stand], list[int], str]] = {
    "one does not wait": (
        [GATHER, GATHER, GATHER, stand(None, "train.py:88")],
        [3],
        "rank 3 is in forward of step 41 (train.py:88), the others wait in all_gather in forward"
        " of step 41",
    ),
    "one waits in another collective": (
        [stand("barrier", "train.py:90", Phase.PROGRAM), GATHER, GATHER],
        [0],
        "rank 0 is outside the engine after step 40 (train.py:90), waiting in barrier, the others"
        " wait in all_gather in forward of step 41",
    ),
    "of two the one outside the engine": (
        [GATHER, stand("barrier", "train.py:90", Phase.PROGRAM)],
        [1],
        "rank 1 is outside the engine after step 40 (train.py:90), waiting in barrier, rank 0 waits"
        " in all_gather in forward of step 41",
    ),
    "one is a step behind": (
        [GATHER, GATHER, stand("all_gather", "train.py:60", step=39)],
        [2],
        "rank 2 is in forward of step 40 (train.py:60), waiting in all_gather, the others wait in"
        " all_gather in forward of step 41",
    ),
    "all in one place": (
        [GATHER, GATHER],
        [],
        "ranks 0-1 wait in all_gather in forward of step 41",
    ),
    "most do not wait": (
        [GATHER, *[stand(None, "data.py:1", Phase.PROGRAM)] * 3],
        [0],
        "rank 0 is in forward of step 41 (train.py:60), waiting in all_gather, the others are"
        " outside the engine after step 40 (data.py:1)",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_the_minority_is_named(case: str) -> None:
    stands, minority, sentence = SENTENCES[case]
    numbered = dict(enumerate(stands))
    assert find_minority(numbered) == minority
    assert describe(numbered) == sentence


def test_the_verdict_is_told_once() -> None:
    simulation = four([in_user_code()], [WAITS])
    assert isinstance(simulation.run(10_000), Hang)
    assert simulation.watchdog.dump_for(0) is None
