import io
import threading
from pathlib import Path

import pytest

from devcluster.errors import DevclusterError, Interrupted, StepFailed
from devcluster.steps import Shell, Step, run_steps


def run(steps: list[Step], logs: Path) -> str:
    out = io.StringIO()
    run_steps(steps, logs=logs, out=out)
    return out.getvalue()


def test_a_step_runs_after_those_that_it_needs(tmp_path: Path) -> None:
    order: list[str] = []
    steps = [
        Step("roof", lambda _: order.append("roof"), ("walls",)),
        Step("walls", lambda _: order.append("walls"), ("ground",)),
        Step("ground", lambda _: order.append("ground")),
    ]
    run(steps, tmp_path)
    assert order == ["ground", "walls", "roof"]


def test_independent_steps_run_at_the_same_time(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=10)
    run([Step(name, lambda _: meeting.wait() and None) for name in ("a", "b")], tmp_path)


def test_steps_of_one_lane_run_one_after_another(tmp_path: Path) -> None:
    taken = threading.Lock()

    def alone(_: Shell) -> None:
        assert taken.acquire(blocking=False)
        taken.release()

    run([Step(str(number), alone, lane="narrow") for number in range(20)], tmp_path)


def test_a_step_that_is_done_is_not_run_and_said_to_be_cached(tmp_path: Path) -> None:
    def fail(_: Shell) -> None:
        raise AssertionError

    told = run([Step("fetch", fail, done=lambda: True)], tmp_path)
    assert "✓ fetch (cached)" in told


def test_a_failure_shows_the_last_lines_of_the_log_and_where_the_rest_is(tmp_path: Path) -> None:
    def fail(shell: Shell) -> None:
        shell.run(["sh", "-c", "echo the compiler is on strike; exit 3"])

    out = io.StringIO()
    with pytest.raises(StepFailed, match="ended with 3") as caught:
        run_steps([Step("build it", fail)], logs=tmp_path, out=out)
    assert "✗ build it failed" in out.getvalue()
    assert "the compiler is on strike" in out.getvalue()
    assert caught.value.log == tmp_path / "build-it.log"
    assert "the compiler is on strike" in caught.value.log.read_text()


def test_a_failure_stops_the_others_and_starts_no_more(tmp_path: Path) -> None:
    started = threading.Event()
    ends: list[BaseException] = []

    def wait(shell: Shell) -> None:
        started.set()
        try:
            shell.run(["sleep", "600"])
        except Interrupted as end:
            ends.append(end)
            raise

    def fail(_: Shell) -> None:
        started.wait(10)
        raise DevclusterError("no")

    later = Step("later", lambda _: pytest.fail("started"), ("fail",))
    with pytest.raises(StepFailed, match="no"):
        run_steps([Step("wait", wait), Step("fail", fail), later], logs=tmp_path, out=io.StringIO())
    assert len(ends) == 1


def test_what_was_done_before_an_interruption_is_not_done_again(tmp_path: Path) -> None:
    runs: list[str] = []
    first, second = tmp_path / "first", tmp_path / "second"

    def interrupt(_: Shell) -> None:
        raise KeyboardInterrupt

    def make(path: Path) -> Step:
        def action(_: Shell) -> None:
            runs.append(path.name)
            path.touch()

        return Step(path.name, action, done=path.exists)

    with pytest.raises(KeyboardInterrupt):
        run([make(first), Step("second", interrupt, ("first",))], tmp_path / "logs")
    run([make(first), make(second)], tmp_path / "logs")
    assert runs == ["first", "second"]


def test_steps_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    steps = [Step("egg", lambda _: None, ("hen",)), Step("hen", lambda _: None, ("egg",))]
    with pytest.raises(DevclusterError, match="wait for each other"):
        run(steps, tmp_path)


def test_a_need_that_is_no_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DevclusterError, match="ghost"):
        run([Step("house", lambda _: None, ("ghost",))], tmp_path)
