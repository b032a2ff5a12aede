"""What heartbeats cost the program, in microseconds: run `python -m tests.bench.heartbeats`.

Beside it: one fact on the hook's socket, which a step also sends two of.

No torch is needed: methods that do nothing are called with and without the hooks around them.
It is CPU time of the calling thread, the best of several rounds: the machine may be busy.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deepspeed_trainer.board.beats import Phase
from deepspeed_trainer.hooks.heartbeat import Heartbeat
from deepspeed_trainer.hooks.page import Page
from deepspeed_trainer.hooks.wire import Wire
from deepspeed_trainer.rank.ear import HookEar

CALLS = 100_000
ROUNDS = 7
PHASES_PER_STEP = 4
"""Forward, backward, engine.step and the optimizer's step in it."""


class Nothing:
    """Stands for an engine, and for a handle that waits."""

    def forward(self) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Do nothing."""


def measure_us(call: Callable[[], object], calls: int = CALLS) -> float:
    """Return the CPU microseconds of one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(calls):
            call()
        best = min(best, time.thread_time() - began)
    return best / calls * 1e6


def main() -> None:
    """Print the figures as JSON."""
    bare = measure_us(Nothing().forward)
    with tempfile.TemporaryDirectory() as folder:
        page = Page.create(Path(folder) / "heartbeat")
        heart = Heartbeat(lambda: page, print)
        heart.around(Nothing, "forward", Phase.FORWARD)
        heart.watch_waits(Nothing)
        phase = measure_us(Nothing().forward) - bare
        wait = measure_us(Nothing().wait) - bare
        step = measure_us(lambda: heart.note_step(1)) - bare
        ear = HookEar(Path(folder) / "hook", lambda _fact: None)
        wire = Wire(str(Path(folder) / "hook"))
        fact = measure_us(lambda: wire.report({"kind": "step", "done": 1, "begun": 2}), CALLS // 10)
    figures = {
        "phase_us": round(phase, 2),
        "wait_us": round(wait, 2),
        "step_us": round(step, 2),
        "fact_us": round(fact, 2),
        "one_step_us": round(PHASES_PER_STEP * phase + step, 1),
    }
    print(json.dumps(figures))
    ear.finish()


if __name__ == "__main__":
    main()
