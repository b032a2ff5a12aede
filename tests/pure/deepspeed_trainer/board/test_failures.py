"""The first cause is named, consequences are counted."""

import pytest

from deepspeed_trainer.board.failures import (
    RankEnd,
    describe_program_end,
    find_first_failure,
    last_exception,
    name_ranks,
)
from deepspeed_trainer.contract import Cause
from tests.pure.deepspeed_trainer.makers import an_end


def traceback_of(line: str) -> tuple[str, ...]:
    frame = '  File "train.py", line 3, in <module>'
    return ("step 3", "Traceback (most recent call last):", frame, line)


PYTHON = traceback_of("ValueError: x")
GLOO = traceback_of(
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
)
NCCL = traceback_of("torch.distributed.DistBackendError: NCCL error: remote process exited")


def test_no_failure_when_all_ended_well() -> None:
    assert find_first_failure([an_end(0), an_end(1)]) is None


CASES: dict[str, tuple[list[RankEnd], Cause, int, str]] = {
    "a signal is named": (
        [an_end(0, 1, order=0, tail=GLOO), an_end(1, -9, order=1)],
        Cause.SIGNAL, 1, "SIGKILL",
    ),
    "a kernel's kill is out of memory": (
        [an_end(1, -9, oom_kills=1)], Cause.OUT_OF_MEMORY, 1, "memory",
    ),
    "SIGKILL without the kernel's count stays a signal": (
        [an_end(1, -9, oom_kills=0)], Cause.SIGNAL, 1, "SIGKILL",
    ),
    "a segmentation fault is a signal": ([an_end(0, -11)], Cause.SIGNAL, 0, "SIGSEGV"),
    "the program's error goes before gloo's, whoever came first": (
        [an_end(0, 1, order=0, tail=GLOO), an_end(3, 1, order=1, tail=PYTHON)],
        Cause.USER_ERROR, 3, "ValueError: x",
    ),
    "NCCL's error is a consequence too": (
        [an_end(0, 1, order=0, tail=NCCL), an_end(1, 7, order=1)],
        Cause.USER_ERROR, 1, "exit code 7",
    ),
    "gloo's abort is a consequence": (
        [an_end(0, -6, order=0, tail=("what(): gloo/transport: Connection reset by peer",)),
         an_end(1, -9, order=1)],
        Cause.SIGNAL, 1, "SIGKILL",
    ),
    "of equals the first to come is named": (
        [an_end(0, 1, order=1, tail=PYTHON),
         an_end(1, 1, order=0, tail=traceback_of("ValueError: b"))],
        Cause.USER_ERROR, 1, "ValueError: b",
    ),
    "our own SIGTERM is never the cause": (
        [an_end(0, -15, order=0, stopped=True), an_end(1, 2, order=1, tail=("boom",))],
        Cause.USER_ERROR, 1, "exit code 2",
    ),
    "a device out of memory": (
        [an_end(0, 1, tail=traceback_of("torch.OutOfMemoryError: CUDA out of memory. Tried"))],
        Cause.OUT_OF_MEMORY, 0, "CUDA out of memory",
    ),
    "a host out of memory": (
        [an_end(0, 1, tail=traceback_of(
            "RuntimeError: [enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: "
            "can't allocate memory: you tried to allocate 8 bytes"))],
        Cause.OUT_OF_MEMORY, 0, "can't allocate",
    ),
    "a missing module": (
        [an_end(0, 1, tail=traceback_of("ModuleNotFoundError: No module named 'nope'"))],
        Cause.IMPORT_FAILED, 0, "nope",
    ),
    "a missing script": (
        [an_end(0, 2, tail=("python: can't open file '/w/x.py': [Errno 2] No such file",))],
        Cause.IMPORT_FAILED, 0, "x.py",
    ),
    "a hook's verdict goes before everything": (
        [an_end(0, -9, order=0),
         an_end(1, 1, order=1, verdict=Cause.RESUME_IGNORED, verdict_message="5 steps")],
        Cause.RESUME_IGNORED, 1, "5 steps",
    ),
    "a hook's verdict counts although the rank ended well": (
        [an_end(0), an_end(1, verdict=Cause.WRONG_WORLD_SIZE, verdict_message="made 1")],
        Cause.WRONG_WORLD_SIZE, 1, "made 1",
    ),
    "a lost pod explains gloo's errors": (
        [an_end(0, 1, order=0, tail=GLOO), an_end(1, 1, order=1, lost=True)],
        Cause.POD_LOST, 1, "supervisor is gone",
    ),
    "a rank that left early explains gloo's errors": (
        [an_end(0, 0, order=0, steps=4, begun=4),
         an_end(1, 1, order=1, steps=4, begun=5, tail=GLOO)],
        Cause.EARLY_EXIT, 0, "rank 1 went on",
    ),
    "a rank that left early does not explain the program's own error": (
        [an_end(0, 0, order=0, steps=4, begun=4),
         an_end(1, 1, order=1, steps=4, begun=5, tail=traceback_of("KeyError: 'x'"))],
        Cause.USER_ERROR, 1, "KeyError",
    ),
    "nothing but consequences: the first is shown": (
        [an_end(0, 1, order=1, tail=GLOO), an_end(1, 1, order=0, tail=GLOO)],
        Cause.USER_ERROR, 1, "gloo",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_first_cause(case: str) -> None:
    ends, cause, rank, text = CASES[case]
    for order in (ends, ends[::-1]):
        failure = find_first_failure(order)
        assert failure is not None
        assert (failure.cause, failure.rank) == (cause, rank)
        assert text in failure.message


def test_the_others_are_counted_as_ranges() -> None:
    ends = [an_end(2, 1, order=0, tail=traceback_of("ValueError: x"))]
    ends += [an_end(rank, 1, order=1, tail=GLOO) for rank in (0, 1, 3, 4, 5)]
    failure = find_first_failure(ends)
    assert failure is not None
    assert failure.message.endswith("(ranks 0-1, 3-5 failed after it)")


def test_ranks_are_named_for_people() -> None:
    assert name_ranks([3]) == "rank 3"
    assert name_ranks([5, 0, 3, 2, 4]) == "ranks 0, 2-5"
    many = name_ranks(range(0, 1000, 2))
    assert many.startswith("ranks 0, 2, 4, ")
    assert many.endswith(", 30 and 484 more")


def test_the_last_exception_is_found_behind_torchs_prefix() -> None:
    tail = (
        "[rank1]: Traceback (most recent call last):",
        '[rank1]:   File "a.py", line 1',
        "[rank1]: KeyError: 'first'",
        "",
        "[rank1]: During handling of the above exception, another exception occurred:",
        "[rank1]: Traceback (most recent call last):",
        '[rank1]:   File "a.py", line 2',
        "[rank1]: ValueError: second",
    )
    assert last_exception(tail) == "ValueError: second"


def test_a_driver_programs_own_error_names_no_rank() -> None:
    failure = describe_program_end(1, traceback_of("KeyError: 'lr'"), 0)
    assert (failure.cause, failure.rank, failure.exit_code) == (Cause.USER_ERROR, None, 1)
    assert "KeyError" in failure.message


@pytest.mark.parametrize(
    "line",
    [
        "cannot start './train.sh': No such file or directory",
        "/opt/trainer/bin/python3: No module named train",
        "/opt/trainer/bin/python3: Error while finding module specification for 'pkg.train'"
        " (ModuleNotFoundError: No module named 'pkg')",
    ],
)
def test_a_program_that_is_not_there_is_an_import_that_failed(line: str) -> None:
    failure = find_first_failure([an_end(0, 127, tail=(line,))])
    assert failure is not None
    assert failure.cause is Cause.IMPORT_FAILED
