"""Run named steps with dependencies, in threads, and tell on one line each how it went.

    run_steps([Step("fetch", fetch), Step("build", build, needs=("fetch",))], logs=folder)

A step is cached when its `done` says so; then its action does not run. Programs are started
through `Shell.run`, which writes their output to the step's log file and lets all of them be
stopped together. Left out on purpose: retries, timeouts, parallelism by weight.
"""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from devcluster.errors import DevclusterError, Interrupted, StepFailed

TAIL_LINES = 25
STILL_RUNNING_S = 20.0
TERMINATE_GRACE_S = 5.0


@dataclass
class Shell:
    """What an action works with: its log file, and programs that can be stopped from outside."""

    log_path: Path
    cancelled: threading.Event = field(default_factory=threading.Event)
    _child: subprocess.Popen[bytes] | None = None

    def log(self, text: str) -> None:
        """Add a line to the step's log."""
        with self.log_path.open("a") as file:
            file.write(text.rstrip("\n") + "\n")

    def check(self) -> None:
        """Raise Interrupted when the step has been told to stop; for actions that loop."""
        if self.cancelled.is_set():
            raise Interrupted(f"stopped, log so far in {self.log_path}")

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
    ) -> None:
        """Run a program to its end with its output in the log.

        `env` is added to the environment of this process.
        Raises: StepFailed on a non-zero exit, Interrupted when told to stop meanwhile.
        """
        words = [str(word) for word in command]
        self.log(f"$ {shlex.join(words)}")
        with self.log_path.open("ab") as output:
            self.check()
            self._child = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=stdin or subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if self.cancelled.is_set():
                self.stop()
            code = self._child.wait()
        self.check()
        if code != 0:
            raise StepFailed(
                words[0], f"{shlex.join(words)[:200]} ended with {code}", self.log_path
            )

    def output(self, command: Sequence[str | Path], *, cwd: Path | None = None) -> str:
        """Run a short program and return what it printed; errors go to the log."""
        words = [str(word) for word in command]
        self.log(f"$ {shlex.join(words)}")
        self.check()
        with self.log_path.open("ab") as errors:
            done = subprocess.run(
                words, cwd=cwd, stdout=subprocess.PIPE, stderr=errors, check=False
            )
        if done.returncode != 0:
            raise StepFailed(words[0], f"ended with {done.returncode}", self.log_path)
        return done.stdout.decode()

    def stop(self) -> None:
        """Tell the step to stop and end the program it is running, with all its children."""
        self.cancelled.set()
        child = self._child
        if child is None or child.poll() is not None:
            return
        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(TERMINATE_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    needs: names of steps that must have succeeded before. done: whether there is nothing to do.
    lane: steps that name the same lane run one after another, in the order given.
    """

    name: str
    action: Callable[[Shell], None]
    needs: tuple[str, ...] = ()
    done: Callable[[], bool] = lambda: False
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    name: str
    seconds: float
    cached: bool = False
    error: BaseException | None = None


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented; a missing file gives an empty text."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64 * 1024))
        found = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in found[-lines:])


def run_steps(
    steps: Sequence[Step], *, logs: Path, out: TextIO | None = None, quiet: bool = False
) -> list[Outcome]:
    """Run all steps, as many at once as their needs and lanes allow.

    Prints a line per step when it ends, and now and then which ones are still running.
    Raises: StepFailed for the first step that failed, after the others have been stopped;
    KeyboardInterrupt is passed on, also after stopping them.
    """
    return _Run(list(steps), logs, out or sys.stderr, quiet).to_the_end()


class _Run:
    """One call of run_steps: its threads, its clock and its lines."""

    def __init__(self, steps: list[Step], logs: Path, out: TextIO, quiet: bool) -> None:
        unknown = {need for step in steps for need in step.needs} - {step.name for step in steps}
        if unknown:
            raise DevclusterError(f"steps need what is not among them: {sorted(unknown)}")
        self.waiting, self.logs, self.out, self.quiet = steps, logs, out, quiet
        self.began = time.monotonic()
        self.running: dict[str, tuple[Step, Shell, float, threading.Thread]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.ended: queue.Queue[Outcome] = queue.Queue()
        logs.mkdir(parents=True, exist_ok=True)

    def to_the_end(self) -> list[Outcome]:
        try:
            while self.waiting or self.running:
                self.start_ready()
                self.await_one()
        except BaseException:
            self.stop_all()
            raise
        return list(self.outcomes.values())

    def start_ready(self) -> None:
        for step in list(self.waiting):
            lane_taken = step.lane and any(s.lane == step.lane for s, *_ in self.running.values())
            if lane_taken or any(need not in self.outcomes for need in step.needs):
                continue
            self.waiting.remove(step)
            shell = Shell(self.logs / f"{step.name.replace(' ', '-').replace('/', '-')}.log")
            shell.log_path.unlink(missing_ok=True)
            thread = threading.Thread(target=self.perform, args=(step, shell), daemon=True)
            self.running[step.name] = (step, shell, time.monotonic(), thread)
            thread.start()

    def perform(self, step: Step, shell: Shell) -> None:
        began = time.monotonic()
        cached, error = False, None
        try:
            cached = step.done()
            if not cached:
                step.action(shell)
        except BaseException as caught:  # noqa: BLE001 (carried to the main thread and raised there)
            error = caught
        self.ended.put(Outcome(step.name, time.monotonic() - began, cached, error))

    def await_one(self) -> None:
        if not self.running:
            names = [step.name for step in self.waiting]
            raise DevclusterError(f"these steps wait for each other: {names}")
        try:
            outcome = self.ended.get(timeout=STILL_RUNNING_S)
        except queue.Empty:
            now = time.monotonic()
            parts = [
                f"{name} ({now - since:.0f}s)" for name, (_, _, since, _) in self.running.items()
            ]
            self.line("…", f"still running: {', '.join(parts)}")
            return
        _, shell, _, thread = self.running.pop(outcome.name)
        thread.join()
        if outcome.error is not None:
            self.tell_failure(outcome, shell)
        self.outcomes[outcome.name] = outcome
        self.line(
            "✓", f"{outcome.name} ({'cached' if outcome.cached else f'{outcome.seconds:.1f}s'})"
        )

    def tell_failure(self, outcome: Outcome, shell: Shell) -> None:
        error = outcome.error
        if not isinstance(error, Exception):
            raise error or AssertionError
        last_lines = tail(shell.log_path)
        told = f"{outcome.name} failed ({outcome.seconds:.1f}s): {error}"
        self.line("✗", f"{told}\n{last_lines}" if last_lines else told, always=True)
        raise StepFailed(outcome.name, str(error), shell.log_path) from error

    def line(self, mark: str, text: str, *, always: bool = False) -> None:
        if always or not self.quiet:
            print(
                f"[{time.monotonic() - self.began:6.1f}s] {mark} {text}", file=self.out, flush=True
            )

    def stop_all(self) -> None:
        for _, shell, _, _ in self.running.values():
            shell.stop()
        for _, _, _, thread in self.running.values():
            thread.join()
