"""When ranks may start, must stop and may leave; and how an attempt is judged."""

import pytest

from deepspeed_trainer.board.attempt import SETTLE_S, Attempt
from deepspeed_trainer.board.ranks import Resume, Verdict
from deepspeed_trainer.board.saves import Save
from deepspeed_trainer.contract import (
    Cause,
    Entrypoint,
    EntrypointKind,
    Failure,
    Progress,
    RunPhase,
)
from tests.pure.deepspeed_trainer.makers import (
    a_closed_save,
    a_contract,
    a_running_attempt,
    begin,
    ended,
    hello,
)

LATER = SETTLE_S + 1.0


def cause_of(attempt: Attempt) -> Cause | None:
    failure = attempt.progress().failure
    return failure.cause if failure else None


def a_finished_attempt(*exit_codes: int) -> Attempt:
    attempt = a_running_attempt()
    for rank, code in enumerate(exit_codes):
        attempt.note_group(rank, 2)
        attempt.note_end(rank, ended(code), 1.0)
    return attempt


def test_no_rank_starts_before_all_are_there() -> None:
    attempt = Attempt(a_contract(), 0.0)
    attempt.note_hello(0, hello("a"), 0.0)
    assert attempt.orders(0, 0.0).launch is None
    attempt.note_hello(1, hello("b"), 0.0)
    begin(attempt)
    assert attempt.orders(0, 0.0).launch is not None


def test_no_rank_starts_before_all_have_read_what_they_continue_from() -> None:
    attempt = Attempt(a_contract(), 0.0)
    for rank, pod in enumerate("ab"):
        assert not attempt.needs_resume
        attempt.note_hello(rank, hello(pod), 0.0)
    assert attempt.needs_resume
    attempt.resuming.choose(Resume(1, save="run/checkpoints/step-5", step=5, attempt=1), None)
    attempt.resuming.note_prepared(0, 1)
    orders = attempt.orders(0, 0.0)
    assert (orders.launch, orders.resume and orders.resume.step) == (None, 5)
    attempt.resuming.note_prepared(1, 1)
    assert attempt.orders(0, 0.0).launch is not None


def test_a_program_that_begins_anew_is_stopped_unless_that_is_wanted() -> None:
    fact = {"kind": "ignored", "step": 5, "path": "run/checkpoints/step-5"}
    stopped, let_go = a_running_attempt(), a_running_attempt(on_ignored="Continue")
    for attempt in (stopped, let_go):
        attempt.take(0, fact, 1.0)
    assert stopped.orders(0, 1.0).must_stop
    assert not let_go.orders(0, 1.0).must_stop
    assert "its 5 steps are lost" in (let_go.progress().notice or "")


def test_damage_that_one_rank_finds_makes_all_fall_back() -> None:
    attempt = Attempt(a_contract(), 0.0)
    for rank, pod in enumerate("ab"):
        attempt.note_hello(rank, hello(pod), 0.0)
    attempt.resuming.choose(Resume(1, save="run/checkpoints/step-5", step=5, attempt=1), None)
    attempt.resuming.note_prepared(0, 1)
    assert attempt.resuming.note_settled(1)
    assert not attempt.resuming.note_settled(1), "two ranks may find it"
    assert attempt.needs_resume
    attempt.resuming.choose(Resume(2), "checkpoint step-5: damaged")
    attempt.resuming.note_prepared(1, 1)
    attempt.resuming.note_prepared(1, 2)
    assert attempt.orders(1, 0.0).launch is None
    attempt.resuming.note_prepared(0, 2)
    assert attempt.orders(1, 0.0).launch is not None
    assert attempt.progress().notice == "checkpoint step-5: damaged"


def test_ranks_are_numbered_within_their_pod() -> None:
    attempt = a_running_attempt(("a", "a", "b", "b"), ranks_per_node=2)
    launches = [attempt.orders(rank, 0.0).launch for rank in range(4)]
    assert [(x.local_rank, x.node_rank) for x in launches if x] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert {x.master_addr for x in launches if x} == {"ip-a"}
    assert {(x.local_world_size, x.nodes) for x in launches if x} == {(2, 2)}


def test_two_pods_with_one_address_are_two_pods() -> None:
    """As on a host's own network: Ray Train counts local ranks by address, devices are a pod's."""
    attempt = Attempt(a_contract(), 0.0)
    for rank, pod in enumerate("ab"):
        attempt.note_hello(rank, {**hello(pod), "address": "ip"}, 0.0)
    begin(attempt)
    launches = [attempt.orders(rank, 0.0).launch for rank in range(2)]
    assert [(x.local_rank, x.local_world_size, x.node_rank) for x in launches if x] == [
        (0, 1, 0),
        (0, 1, 1),
    ]


@pytest.mark.parametrize("pods", [("a", "a"), ("a", "a", "a", "b"), ("a", "b", "a", "c")])
def test_a_wrong_placement_stops_before_the_program_starts(pods: tuple[str, ...]) -> None:
    attempt = a_running_attempt(pods, ranks_per_node=len(pods) // 2)
    orders = attempt.orders(0, 0.0)
    assert orders.must_stop
    assert orders.launch is None
    assert cause_of(attempt) is Cause.PLACEMENT
    assert "a: rank" in (attempt.progress().failure or Failure(Cause.SIGNAL, "")).message


def test_survivors_have_time_for_their_last_words() -> None:
    attempt = a_running_attempt()
    attempt.note_end(1, ended(-9), 10.0)
    assert not attempt.orders(0, 10.0 + SETTLE_S / 2).must_stop
    assert attempt.orders(0, 10.0 + LATER).must_stop


def test_one_good_end_stops_nobody() -> None:
    attempt = a_running_attempt()
    attempt.note_end(1, ended(0), 10.0)
    assert not attempt.orders(0, 10_000.0).must_stop


def test_a_rank_that_leaves_early_is_named_while_the_others_hang() -> None:
    attempt = a_running_attempt()
    attempt.note_figures(0, {"done": 4, "begun": 5}, 9.0)
    attempt.note_figures(1, {"done": 4, "begun": 4}, 9.0)
    attempt.note_end(1, ended(0), 10.0)
    assert attempt.orders(0, 10.0 + LATER).must_stop
    attempt.note_end(0, ended(-15, stopped=True), 15.0)
    attempt.conclude(Verdict(), 16.0)
    failure = attempt.progress().failure
    assert failure is not None
    assert (failure.cause, failure.rank) == (Cause.EARLY_EXIT, 1)


def test_a_wrong_world_size_stops_at_once() -> None:
    attempt = a_running_attempt()
    attempt.note_group(0, 1)
    assert attempt.orders(1, 0.0).must_stop
    for rank in (0, 1):
        attempt.note_end(rank, ended(-15, stopped=True), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert cause_of(attempt) is Cause.WRONG_WORLD_SIZE


def test_all_ranks_that_end_well_with_a_group_succeed() -> None:
    attempt = a_finished_attempt(0, 0)
    attempt.conclude(Verdict(), 2.0)
    assert attempt.phase is RunPhase.SUCCEEDED
    assert cause_of(attempt) is None


def test_ranks_that_never_met_have_not_succeeded() -> None:
    attempt = a_running_attempt()
    for rank in (0, 1):
        attempt.note_end(rank, ended(0), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert cause_of(attempt) is Cause.NO_PROCESS_GROUP


def test_a_broken_hook_fails_no_job_and_is_shown() -> None:
    attempt = a_running_attempt()
    for rank in (0, 1):
        attempt.note_hook(rank, "no such attribute")
        attempt.note_end(rank, ended(0), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert attempt.phase is RunPhase.SUCCEEDED
    assert "no such attribute" in (attempt.progress().notice or "")


def test_advice_of_a_hook_is_shown_beside_what_is_missing() -> None:
    attempt = a_running_attempt()
    attempt.take(0, {"kind": "advice", "message": "build it sharded"}, 1.0)
    assert attempt.progress().notice == "build it sharded"
    attempt.note_hook(1, "no such attribute")
    notice = attempt.progress().notice or ""
    assert notice.startswith("progress unavailable on rank 1")
    assert notice.endswith("; build it sharded")


def test_a_rank_that_was_stopped_before_it_started_is_not_said_to_lack_its_hook() -> None:
    attempt = a_running_attempt()
    attempt.note_hello(1, hello("b"), 0.0)
    attempt.note_end(1, ended(1, stopped=True), 1.0)
    assert attempt.progress().notice is None


def test_a_lost_supervisor_is_a_lost_pod() -> None:
    attempt = a_running_attempt()
    attempt.conclude(Verdict(lost={1: "the actor died"}), 2.0)
    failure = attempt.progress().failure
    assert failure is not None
    assert (failure.cause, failure.rank, failure.node) == (Cause.POD_LOST, 1, "b")


def test_what_ray_says_counts_only_when_no_rank_explains_it() -> None:
    unexplained, explained = a_running_attempt(), a_finished_attempt(0, 3)
    for attempt in (unexplained, explained):
        attempt.conclude(Verdict(error="controller failed"), 2.0)
    assert cause_of(unexplained) is Cause.TRAINER_ERROR
    assert cause_of(explained) is Cause.USER_ERROR


def test_an_attempt_whose_ranks_did_not_all_end_has_not_succeeded() -> None:
    attempt = a_running_attempt()
    attempt.note_end(0, ended(0), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert cause_of(attempt) is Cause.TRAINER_ERROR


def test_no_rank_leaves_before_all_ended_and_complete_saves_are_committed() -> None:
    attempt = a_running_attempt()
    for rank in (0, 1):
        attempt.saves.note_closed(rank, a_closed_save())
    attempt.note_end(0, ended(-9), 1.0)
    assert not attempt.orders(0, 1.0).may_leave
    attempt.note_end(1, ended(1), 1.0)
    assert not attempt.orders(0, 1.0).may_leave
    attempt.saves.note_brought(0, 1, ())
    assert attempt.saves.note_brought(1, 1, ()) is not None
    assert attempt.orders(0, 1.0).may_leave


def test_a_save_that_a_rank_never_finished_holds_nobody() -> None:
    attempt = a_finished_attempt(0, -9)
    attempt.saves.note_closed(0, a_closed_save())
    assert attempt.orders(0, 1.0).may_leave


def test_a_failed_function_leaves_so_that_ray_ends_the_others() -> None:
    attempt = a_running_attempt(entrypoint=Entrypoint(EntrypointKind.FUNCTION, "pkg:train"))
    attempt.note_end(1, ended(1), 1.0)
    assert attempt.orders(1, 1.0).may_leave


def test_ranks_that_need_no_group_may_end_without_one() -> None:
    attempt = a_running_attempt(distributed=False)
    for rank in (0, 1):
        attempt.note_hook(rank, None)
        attempt.note_end(rank, ended(0), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert attempt.phase is RunPhase.SUCCEEDED


def test_ranks_that_need_no_group_may_end_when_they_like() -> None:
    attempt = a_running_attempt(distributed=False)
    attempt.note_figures(1, {"done": 9, "begun": 10}, 0.5)
    attempt.note_end(0, ended(0), 1.0)
    assert not attempt.orders(1, 1.0 + SETTLE_S).must_stop


def test_a_command_that_never_spoke_up_made_no_group() -> None:
    command = Entrypoint(EntrypointKind.COMMAND, "./train.sh")
    attempt = Attempt(a_contract(entrypoint=command), 0.0)
    for rank, pod in enumerate("ab"):
        attempt.note_hello(rank, hello(pod), 0.0)
        attempt.note_end(rank, ended(0), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert cause_of(attempt) is Cause.NO_PROCESS_GROUP


def test_a_driver_program_without_a_trainer_has_trained_nothing() -> None:
    attempt = Attempt(a_contract(entrypoint=Entrypoint(EntrypointKind.DRIVER, "a.py")), 0.0)
    attempt.conclude(Verdict(), 2.0)
    assert cause_of(attempt) is Cause.NO_PROCESS_GROUP


def test_a_rank_explains_more_than_the_driver_program_that_fell_over_it() -> None:
    program = Failure(Cause.USER_ERROR, "the driver program: WorkerGroupError")
    attempt = a_running_attempt(entrypoint=Entrypoint(EntrypointKind.DRIVER, "a.py"))
    attempt.note_end(1, ended(1, tail=("ValueError: no",)), 1.0)
    attempt.conclude(Verdict(program=program), 2.0)
    failure = attempt.progress().failure
    assert failure is not None
    assert failure.rank == 1


def test_a_driver_program_that_fails_alone_is_the_cause() -> None:
    program = Failure(Cause.USER_ERROR, "the driver program: KeyError")
    attempt = Attempt(a_contract(entrypoint=Entrypoint(EntrypointKind.DRIVER, "a.py")), 0.0)
    attempt.conclude(Verdict(program=program), 2.0)
    assert attempt.progress().failure == program


def test_each_override_is_told_once_and_all_are_bounded() -> None:
    attempt = a_running_attempt()
    for number in range(40):
        attempt.note_override(f"x{number // 2} became y")
    assert len(attempt.progress().overrides) == 16
    assert Progress.from_json(attempt.progress().to_json()) == attempt.progress()


def test_a_stop_from_outside_reaches_every_rank() -> None:
    attempt = a_running_attempt()
    attempt.fail(Failure(Cause.STOPPED, "asked to stop"))
    assert all(attempt.orders(rank, 0.0).must_stop for rank in (0, 1))


def test_the_first_reason_stays() -> None:
    attempt = a_running_attempt()
    attempt.fail(Failure(Cause.STOPPED, "asked to stop"))
    attempt.note_end(0, ended(1), 1.0)
    attempt.conclude(Verdict(error="x"), 2.0)
    assert cause_of(attempt) is Cause.STOPPED


def test_the_first_step_is_told_once() -> None:
    attempt = a_running_attempt()
    assert attempt.note_figures(0, {"done": 6, "begun": 6, "first": 6}, 1.0)
    assert not attempt.note_figures(0, {"done": 7, "begun": 7, "first": 6}, 1.0)
    assert attempt.progress().first_step == 6


def test_the_newest_twenty_metrics_are_shown() -> None:
    attempt = a_running_attempt()
    for number in range(30):
        attempt.note_metrics(0, {f"m{number}": "1", "kept": str(number)})
    shown = {metric.name: metric.value for metric in attempt.progress().metrics}
    assert len(shown) == 20
    assert shown["kept"] == "29"
    assert "m9" not in shown


def test_an_epoch_among_the_metrics_is_the_epoch() -> None:
    attempt = a_running_attempt()
    attempt.note_metrics(0, {"Train/epoch": "3"})
    assert attempt.progress().epoch == 3


def test_every_answer_passes_the_operators_reader() -> None:
    attempt = a_running_attempt()
    attempt.note_metrics(0, {"acc": "0.5"})
    attempt.note_end(0, ended(1, tail=("x" * 5000,) * 60), 1.0)
    attempt.conclude(Verdict(), 2.0)
    assert Progress.from_json(attempt.progress().to_json()) == attempt.progress()


def test_a_fact_of_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        a_running_attempt().take(0, {"kind": "gossip"}, 0.0)


def test_only_a_save_after_the_one_without_room_shows_that_there_is_some() -> None:
    attempt = a_running_attempt()
    attempt.room.note_full(3, "rank 1, no room for a.pt")
    for number, shown in ((2, "rank 1, no room for a.pt"), (4, None)):
        attempt.note_committed(Save.from_fact(a_closed_save(number)), 1.0)
        assert attempt.progress().storage_full == shown
