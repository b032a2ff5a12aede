"""What is read from a stack dump: the line of the program, the collective, and any movement."""

from deepspeed_trainer.rank.frames import read_where

SITE = "/opt/venv/lib/python3.11/site-packages"
HEART = "/opt/venv/lib/python3.11/site-packages/deepspeed_trainer/hooks/heartbeat.py"
TRAIN = ("/code/train.py", 88, "train")
ENGINE = (f"{SITE}/deepspeed/runtime/engine.py", 3000, "forward")
WAIT = (HEART, 90, "wait")
GATHER = (f"{SITE}/torch/distributed/distributed_c10d.py", 3400, "all_gather_into_tensor")
LOGGER = (f"{SITE}/torch/distributed/c10d_logger.py", 83, "wrapper")
HANDLE = (f"{SITE}/deepspeed/runtime/zero/partition_parameters.py", 820, "wait")
FETCH = (f"{SITE}/deepspeed/runtime/zero/partitioned_param_coordinator.py", 406, "fetch_sub_module")
TALK = ("/opt/deepspeed_trainer/rank/function.py", 120, "_talk")
MONITOR = ("/usr/lib/python3.11/threading.py", 324, "wait")
Call = tuple[str, int, str]


def thread(ident: int, *frames: Call, current: bool = False) -> str:
    head = "Current thread" if current else "Thread"
    lines = [f'  File "{file}", line {line} in {function}' for file, line, function in frames]
    return "\n".join([f"{head} 0x{ident:016x} (most recent call first):", *lines, ""])


def where(*frames: Call, beside: str = "") -> tuple[str | None, str | None]:
    found = read_where(f"{thread(0xA1, *frames)}\n{beside}", 0xA1)
    assert found is not None
    return found.place, found.waits_in


def fingerprint(*texts: str) -> str:
    found = read_where("\n".join(texts), 0xA1)
    assert found is not None
    return found.fingerprint


def test_the_innermost_line_of_the_program_is_its_place() -> None:
    assert where(ENGINE, TRAIN, ("/code/main.py", 3, "<module>")) == ("train.py:88", None)


def test_a_stack_of_libraries_alone_still_has_a_place() -> None:
    assert where(ENGINE) == ("engine.py:3000", None)


def test_a_collective_is_named() -> None:
    assert where(WAIT, GATHER, LOGGER, ENGINE, TRAIN)[1] == "all_gather_into_tensor"


def test_a_blocking_call_of_torch_distributed_is_a_collective() -> None:
    barrier = (GATHER[0], 1, "monitored_barrier")
    assert where(barrier, TRAIN)[1] == "monitored_barrier"


def test_an_asynchronous_collective_is_named_by_who_waits_for_it() -> None:
    assert where(WAIT, HANDLE, FETCH, ENGINE, TRAIN)[1] == "a collective of fetch_sub_module"


def test_a_wait_of_the_programs_own_lines_is_a_collective() -> None:
    assert where(WAIT, ("/code/train.py", 9, "<module>")) == ("train.py:9", "a collective")


def test_code_that_is_called_by_torch_is_no_collective() -> None:
    assert where(TRAIN, GATHER)[1] is None


def test_a_rank_that_waits_for_its_supervisor_is_known() -> None:
    asks = ("/opt/deepspeed_trainer/hooks/wire.py", 84, "_send")
    reads = ("/usr/lib/python3.11/socket.py", 706, "readinto")
    found = read_where(thread(0xA1, reads, asks, TRAIN), 0xA1)
    assert found is not None
    assert found.asks_supervisor
    other = read_where(thread(0xA1, TRAIN, asks), 0xA1)
    assert other is not None
    assert not other.asks_supervisor


def test_a_thread_that_is_not_there_says_nothing() -> None:
    assert read_where(thread(0xB2, TRAIN), 0xA1) is None
    assert read_where("", 0xA1) is None


def test_another_line_is_movement() -> None:
    later = ("/code/train.py", 89, "train")
    assert fingerprint(thread(0xA1, TRAIN)) == fingerprint(thread(0xA1, TRAIN, current=True))
    assert fingerprint(thread(0xA1, TRAIN)) != fingerprint(thread(0xA1, later))


def test_another_thread_of_the_program_may_move_for_it() -> None:
    """A backward on a GPU runs in a thread of its own."""
    one, other = thread(0xB2, ENGINE, MONITOR), thread(0xB2, MONITOR)
    assert fingerprint(thread(0xA1, TRAIN), one) != fingerprint(thread(0xA1, TRAIN), other)


def test_our_own_thread_and_rays_are_no_movement() -> None:
    ray = (f"{SITE}/ray/_private/worker.py", 1, "poll")
    still = fingerprint(thread(0xA1, TRAIN))
    assert fingerprint(thread(0xA1, TRAIN), thread(0xC3, TALK), thread(0xD4, ray)) == still


def test_a_rank_inside_rays_worker_is_not_taken_for_ours() -> None:
    text = thread(0xA1, TRAIN, TALK)
    assert fingerprint(text) != fingerprint(thread(0xA1, ENGINE, TALK))
