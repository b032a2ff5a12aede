"""Which step is named when a pod is told to go, what ranks answer, and how the attempt ends."""

import random
from typing import Any

import pytest

from deepspeed_trainer.board.attempt import Attempt
from deepspeed_trainer.board.preemption import MANY_RANKS, Preemption, Saved
from deepspeed_trainer.board.ranks import RankState, SaveOrder, Verdict
from deepspeed_trainer.board.saves import Save
from deepspeed_trainer.contract import HEAD_POD, Cause, Failure
from tests.pure.deepspeed_trainer.makers import (
    a_closed_save,
    a_contract,
    a_running_attempt,
    ended,
)

GRACE_S = 30.0


def tell(attempt: Attempt, rank: int, kind: str, **fact: Any) -> None:
    now = fact.pop("now", 10.0)
    attempt.preemption.take(rank, {"kind": kind, **fact}, now)


def step(attempt: Attempt, rank: int, done: int, now: float, begun: int | None = None) -> None:
    fact = {"done": done, "begun": begun if begun is not None else done + 1, "first": 1}
    attempt.note_figures(rank, fact, now)


def a_training_attempt(*, savers: bool = True, **changes: Any) -> Attempt:
    """Both ranks have done five steps, one a second."""
    attempt = a_running_attempt(**changes)
    for done in range(1, 6):
        for rank in (0, 1):
            step(attempt, rank, done, float(done))
    for rank in (0, 1) if savers else ():
        tell(attempt, rank, "saver", name="loop")
    return attempt


def going(attempt: Attempt, rank: int = 1, grace_s: float = GRACE_S, now: float = 5.5) -> None:
    tell(attempt, rank, "going", pod="ab"[rank], grace_s=grace_s, now=now)


def named(attempt: Attempt, now: float) -> SaveOrder:
    order = attempt.orders(0, now).save
    assert order is not None
    return order


def agree(attempt: Attempt, now: float = 6.0) -> int:
    order = named(attempt, now)
    for rank in (0, 1):
        tell(attempt, rank, "armed", step=order.step)
    assert named(attempt, now) == SaveOrder(order.step, is_agreed=True)
    return order.step


def commit(attempt: Attempt, at: int, now: float) -> None:
    for rank in (0, 1):
        attempt.saves.note_closed(rank, a_closed_save(at))
        assert attempt.saves.note_brought(rank, at, ()) is not None or rank == 0
    attempt.note_committed(Save.from_fact(a_closed_save(at)), now)


def failure(attempt: Attempt) -> Failure:
    found = attempt.progress().failure
    assert found is not None
    assert found.cause is Cause.PREEMPTED
    return found


def test_nobody_is_asked_to_save_as_long_as_no_pod_goes() -> None:
    attempt = a_training_attempt()
    assert attempt.orders(0, 5.5).save is None
    assert attempt.progress().notice is None


def test_a_head_is_named_as_the_operator_expects_it() -> None:
    attempt = a_training_attempt(savers=False)
    attempt.preemption.note_head(GRACE_S, 5.5)
    attempt.orders(0, 6.0)
    assert failure(attempt).node == HEAD_POD


def test_a_step_is_named_that_no_rank_has_passed_when_it_hears_of_it() -> None:
    attempt = a_training_attempt()
    going(attempt)
    # Step 6 is under way; another one begins within the second and a half until all know.
    assert named(attempt, 5.5) == SaveOrder(7, is_agreed=False)
    assert attempt.progress().notice == "pod b was told to go: all ranks save at step 7"


def test_a_slow_program_saves_after_the_step_that_is_under_way() -> None:
    attempt = a_running_attempt()
    for done in (1, 2, 3):
        for rank in (0, 1):
            step(attempt, rank, done, done * 20.0)
            tell(attempt, rank, "saver", name="loop")
    going(attempt, now=61.0)
    assert named(attempt, 61.0).step == 4


def test_the_save_waits_for_the_word_of_all_ranks() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = named(attempt, 5.5).step
    tell(attempt, 0, "armed", step=at)
    assert not named(attempt, 6.0).is_agreed
    tell(attempt, 1, "armed", step=at - 1)
    assert not named(attempt, 6.0).is_agreed, "that was another step"
    tell(attempt, 1, "armed", step=at)
    assert named(attempt, 6.0).is_agreed


def test_a_later_step_is_named_when_a_rank_has_passed_without_a_word() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = named(attempt, 5.5).step
    tell(attempt, 0, "armed", step=at)
    step(attempt, 1, at, 7.0)
    again = named(attempt, 7.0)
    assert again.step > at
    assert not again.is_agreed, "who had agreed to the first step has not agreed to this one"


def test_a_rank_that_stands_at_the_step_and_says_nothing_is_not_waited_for_for_ever() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = named(attempt, 5.5).step
    tell(attempt, 0, "armed", step=at)
    step(attempt, 1, at, 7.0, begun=at)
    assert named(attempt, 7.2).step == at, "its word may be on its way"
    assert named(attempt, 9.0).step > at


def test_a_rank_that_has_agreed_may_stand_at_the_step_for_long() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = named(attempt, 5.5).step
    tell(attempt, 0, "armed", step=at)
    step(attempt, 0, at, 7.0, begun=at)
    assert named(attempt, 20.0).step == at


def test_the_attempt_ends_when_all_ranks_have_saved_and_the_save_counts() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = agree(attempt)
    for rank in (0, 1):
        step(attempt, rank, at, 7.0, begun=at)
        attempt.saves.note_closed(rank, a_closed_save(at))
        tell(attempt, rank, "held", step=at)
    assert not attempt.orders(0, 7.5).must_stop, "the save is on its way"
    commit(attempt, at, 8.0)
    assert attempt.orders(0, 8.5).must_stop
    assert failure(attempt).message == (
        f"pod b was told to go; all ranks saved at step {at} and stopped; no step is lost"
    )
    assert failure(attempt).node == "b"


def test_a_program_that_ends_after_its_signal_has_not_succeeded() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = agree(attempt)
    for rank in (0, 1):
        step(attempt, rank, at, 7.0, begun=at)
        tell(attempt, rank, "signalled", step=at)
    commit(attempt, at, 8.0)
    for rank in (0, 1):
        attempt.note_end(rank, ended(0), 8.0)
    attempt.orders(0, 8.5)
    assert "no step is lost" in failure(attempt).message


def test_many_ranks_that_end_by_their_signal_after_the_save_have_not_failed() -> None:
    """Looks at many ranks are rare, and the last ends may come between two of them."""
    ranks = range(MANY_RANKS + 1000)
    pods = tuple(f"pod-{rank}" for rank in ranks)
    attempt = a_running_attempt(pods, nodes=len(ranks), restarts_left=3)
    for rank in ranks:
        step(attempt, rank, 1, 1.0)
        tell(attempt, rank, "saver", name="deepspeed")
    going(attempt)
    at = named(attempt, 5.5).step
    for rank in ranks:
        tell(attempt, rank, "armed", step=at)
    assert named(attempt, 9.0).is_agreed
    for rank in ranks:
        step(attempt, rank, at, 9.5)
        tell(attempt, rank, "signalled", step=at)
        if rank:
            attempt.note_end(rank, ended(-15), 10.0)
    attempt.note_committed(Save.from_fact(a_closed_save(at)), 10.0)
    assert not attempt.orders(0, 12.0).go_again
    attempt.note_end(0, ended(-15), 12.1)
    assert not attempt.orders(0, 12.1).go_again
    assert "no step is lost" in failure(attempt).message


@pytest.mark.parametrize("exit_code", [0, 1])
def test_ranks_that_had_ended_before_are_judged_by_their_end(exit_code: int) -> None:
    attempt = a_training_attempt(savers=False, distributed=False)
    for rank in (0, 1):
        attempt.note_end(rank, ended(exit_code), 5.2)
    going(attempt)
    assert attempt.orders(0, 5.6).may_leave
    attempt.conclude(Verdict(), 6.0)
    found = attempt.progress().failure
    assert (found.cause if found else None) == (Cause.USER_ERROR if exit_code else None)


def test_a_program_that_comes_to_its_end_before_the_step_has_succeeded() -> None:
    attempt = a_training_attempt(distributed=False)
    going(attempt)
    agree(attempt)
    for rank in (0, 1):
        attempt.note_end(rank, ended(0), 8.0)
    assert attempt.orders(0, 8.5).may_leave
    assert attempt.progress().failure is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"savers": False}, "not supported by the program on ranks 0-1"),
        ({"grace_s": 3.0}, "the ranks came to no common step within 3 s"),
    ],
)
def test_what_cannot_be_saved_is_told_and_ends_at_once(change: dict[str, Any], told: str) -> None:
    attempt = a_training_attempt(savers=change.get("savers", True))
    going(attempt, grace_s=change.get("grace_s", GRACE_S))
    assert attempt.orders(0, 5.6).must_stop
    assert told in failure(attempt).message
    assert failure(attempt).message.endswith("5 steps are done again, there is no checkpoint")


def test_a_saver_that_is_taken_back_is_none() -> None:
    attempt = a_training_attempt()
    tell(attempt, 1, "saver", name="")
    going(attempt)
    attempt.orders(0, 5.6)
    assert "not supported by the program on rank 1" in failure(attempt).message


def test_steps_since_the_last_checkpoint_are_counted() -> None:
    attempt = a_training_attempt(savers=False)
    commit(attempt, 4, 4.5)
    going(attempt)
    attempt.orders(0, 5.6)
    assert failure(attempt).message.endswith("1 step is done again, since the checkpoint of step 4")


@pytest.mark.parametrize(("took_s", "is_started"), [(24.0, True), (28.0, False)])
def test_no_save_is_started_that_the_last_one_shows_to_be_too_long(
    took_s: float, is_started: bool
) -> None:
    """A third of it was the program's own writing, the rest until the save counted."""
    attempt = a_training_attempt()
    fact = a_closed_save(4, wrote_s=took_s / 3, blocked_s=0.0)
    attempt.preemption.note_closed(4, fact, 4.5)
    commit(attempt, 4, 4.5 + took_s * 2 / 3)
    going(attempt, now=40.0)
    assert (attempt.orders(0, 40.0).save is not None) is is_started
    if not is_started:
        told = f"no save was started: the last one took {took_s:.0f} s, 27 s are left"
        assert told in failure(attempt).message
        assert "spec.preemption.graceSeconds" in failure(attempt).message


def test_a_save_on_its_way_is_waited_for_before_anything_is_decided() -> None:
    attempt = a_training_attempt(savers=False)
    for rank in (0, 1):
        attempt.saves.note_closed(rank, a_closed_save(5))
    going(attempt)
    assert not attempt.orders(0, 5.6).must_stop
    commit(attempt, 5, 6.0)
    assert attempt.orders(0, 6.1).must_stop
    assert failure(attempt).message.endswith("no step is lost")


def test_a_save_that_does_not_count_in_time_ends_with_the_grace() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = agree(attempt)
    assert not attempt.orders(0, 32.0).must_stop
    assert attempt.orders(0, 33.0).must_stop
    assert f"the save of step {at} did not count within 30 s" in failure(attempt).message


def test_a_saver_that_saved_nothing_is_found_out() -> None:
    attempt = a_training_attempt()
    going(attempt)
    at = agree(attempt)
    for rank in (0, 1):
        tell(attempt, rank, "held", step=at)
    assert attempt.orders(0, 8.0).must_stop
    assert f"the program did not save at step {at}" in failure(attempt).message


def test_ranks_that_have_not_trained_yet_end_at_once() -> None:
    attempt = a_running_attempt()
    going(attempt, now=1.0)
    assert attempt.orders(0, 1.0).must_stop
    assert failure(attempt).message.endswith("the ranks had not done a step yet; no step is lost")


def test_a_failure_meanwhile_is_met_by_the_end_of_the_attempt_in_the_next_round() -> None:
    attempt = a_training_attempt(restarts_left=1)
    going(attempt)
    agree(attempt)
    for rank in (0, 1):
        attempt.note_end(rank, ended(-9), 7.0)
    assert attempt.orders(0, 7.5, restart=0).go_again
    for rank, pod in enumerate("ab"):
        attempt.take(
            rank, {"kind": "hello", "pod": pod, "pod_uid": pod, "address": "", "port": 1}, 8.0
        )
    going(attempt, now=8.0)
    assert attempt.orders(0, 8.0, restart=1).must_stop
    assert failure(attempt).message.endswith("5 steps are done again, there is no checkpoint")


def test_the_first_pod_to_be_killed_sets_the_time() -> None:
    attempt = a_training_attempt()
    going(attempt, 0, grace_s=60.0, now=5.0)
    going(attempt, 1, grace_s=10.0, now=6.0)
    agree(attempt)
    assert attempt.orders(0, 13.5).must_stop
    assert failure(attempt).node == "b"


class Rank:
    """A rank's program in lockstep with the others: a step begins when all are there."""

    def __init__(self) -> None:
        self.done = 0
        self.answered = 0
        self.order = SaveOrder(0, is_agreed=False)
        self.facts: list[dict[str, Any]] = []
        self.held_at = 0

    def answer(self) -> None:
        if self.order.step not in (0, self.answered):
            self.answered = self.order.step
            kind = "armed" if self.done <= self.order.step else "late"
            self.facts.append({"kind": kind, "step": self.order.step})

    @property
    def may_go_on(self) -> bool:
        """Whether the next step may begin; a rank at the named step waits there."""
        self.answer()
        if self.done == self.order.step > 0:
            if self.order.is_agreed and not self.held_at:
                self.held_at = self.done
                self.facts.append({"kind": "held", "step": self.done})
            return False
        return True


@pytest.mark.parametrize("seed", range(30))
def test_all_ranks_stop_at_one_step_however_slowly_they_hear(seed: int) -> None:
    """Steps of any length, orders and facts that are late by up to a second, lockstep."""
    draw = random.Random(seed)  # noqa: S311  a seeded draw
    size, step_s = 4, draw.choice([0.01, 0.1, 0.7, 3.0, 20.0])
    preemption = Preemption(a_contract(nodes=size))
    states = {r: RankState(f"pod-{r}", f"uid-{r}", "", 0, first_step=1) for r in range(size)}
    ranks = [Rank() for _ in range(size)]
    talks = [draw.random() for _ in range(size)]
    for r in range(size):
        preemption.take(r, {"kind": "saver", "name": "loop"}, 0.0)
    now, ends = 0.0, [step_s * draw.uniform(0.9, 1.1) for _ in range(size)]
    told_at = draw.uniform(5, 8) + 3 * step_s
    while now < told_at + 200:
        now += 0.01
        if now >= told_at and not preemption.is_on:
            preemption.note_going("pod-1", 1000.0, now)
        for r, rank in enumerate(ranks):
            # All ranks are needed for a step: nobody is more than one ahead of the slowest.
            is_met = rank.done <= min(other.done for other in ranks)
            if now >= ends[r] and is_met and rank.may_go_on:
                rank.done += 1
                rank.answer()
                ends[r] = now + step_s * draw.uniform(0.9, 1.1)
            if now >= talks[r]:
                talks[r] = now + draw.uniform(0.1, 1.0)
                for fact in rank.facts:
                    preemption.take(r, fact, now)
                rank.facts.clear()
                states[r].steps, states[r].begun = rank.done, rank.done + rank.may_go_on
                preemption.note_steps(r, rank.done, now)
                found = preemption.look(states, Saved(0, is_pending=False), now)
                rank.order = preemption.order or rank.order
                if found is not None:
                    assert "did not save at step" in found.message, found.message
                    assert {one.held_at for one in ranks} == {ranks[0].done}
                    assert {one.done for one in ranks} == {ranks[0].done}
                    return
    raise AssertionError("the ranks came to no common step")
