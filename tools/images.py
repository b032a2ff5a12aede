"""Build everything that the demo and the tests run on: programs and images. `make setup` runs it.

All steps go into one runner, so that downloads run beside compilers. What is built is kept in the
dev cluster's cache under the digest of what it is made from; a second run finds it all there.
"""

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from devcluster import cluster, imagebuild
from devcluster.errors import DevclusterError, StepFailed
from devcluster.imagebuild import Recipe
from devcluster.paths import cache_dir
from devcluster.steps import Outcome, Step, run_steps
from tools.ground import find_obstacle

ROOT = Path(__file__).resolve().parent.parent
OPERATOR = "localhost/deepspeed-operator:dev"
TRAINER = "localhost/deepspeed-trainer:dev"
QUICKSTART = "localhost/deepspeed-quickstart:dev"
SHOWN = 5

RECIPES = (
    Recipe(OPERATOR, ROOT / "Dockerfile", ROOT, bases={"BASE_IMAGE": "debian"}),
    Recipe(
        TRAINER,
        ROOT / "trainer_image" / "Dockerfile",
        ROOT,
        bases={"BUILD_IMAGE": "builder", "BASE_IMAGE": "debian"},
    ),
    Recipe(
        QUICKSTART,
        ROOT / "examples" / "quickstart" / "Dockerfile",
        ROOT / "examples" / "quickstart",
        bases={"TRAINER_IMAGE": TRAINER, "BASE_IMAGE": "debian"},
    ),
)


def bare_steps() -> list[Step]:
    """What tests on a real API server need; no rights of root."""
    return cluster.all_build_steps(("control-plane", "tools"))


def all_steps() -> list[Step]:
    """Programs, packages and images. Images wait for each other, but not for the compilers."""
    images = [
        replace(step, lane="images") if step.lane else step for step in imagebuild.steps(*RECIPES)
    ]
    return [*cluster.all_build_steps(("control-plane", "nodes", "tools")), *images]


def summary(outcomes: Sequence[Outcome], total_s: float) -> str:
    """The total and the slowest steps; one line when there was nothing to do."""
    built = sorted((o for o in outcomes if not o.cached), key=lambda o: -o.seconds)
    if not built:
        return f"set-up: all {len(outcomes)} parts are there ({total_s:.1f} s)"
    slowest = [f"  {o.seconds:7.1f} s  {o.name}" for o in built[:SHOWN]]
    return "\n".join([f"set-up took {total_s:.1f} s; the slowest steps:", *slowest])


def main() -> int:
    """Build what is missing and can be used here. A signal is passed on to what is running."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("set-up: ended by a signal; run it again"))
    try:
        obstacle = find_obstacle()
        if obstacle is not None:
            print(f"set-up: {obstacle}; building what works without nodes", file=sys.stderr)
        steps = all_steps() if obstacle is None else bare_steps()
        outcomes = run_steps(steps, logs=cache_dir() / "logs")
    except StepFailed:
        return 1  # told where it happened
    except DevclusterError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    print(summary(outcomes, time.monotonic() - began), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
