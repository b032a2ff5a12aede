"""Build everything that the demo and the tests run on: programs and images. `make setup` runs it.

All steps go into one runner, so that downloads run beside compilers. What is built is kept in the
dev cluster's cache under the digest of what it is made from; a second run finds it all there.
"""

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import which

from devcluster import build, cluster, imagebuild, images
from devcluster.errors import DevclusterError, StepFailed
from devcluster.imagebuild import Recipe
from devcluster.paths import cache_dir
from devcluster.steps import Outcome, Shell, Step, run_steps
from tools.choice import DEVCLUSTER, KIND, read_choice
from tools.ground import find_obstacle, find_obstacle_to_nodes

ROOT = Path(__file__).resolve().parent.parent
OPERATOR = "localhost/deepspeed-operator:dev"
TRAINER = "localhost/deepspeed-trainer:dev"
QUICKSTART = "localhost/deepspeed-quickstart:dev"
EXAMPLES = "localhost/deepspeed-examples:dev"
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

FOR_EXAMPLES = Recipe(
    EXAMPLES,
    ROOT / "examples" / "image" / "Dockerfile",
    ROOT / "examples" / "image",
    bases={"QUICKSTART_IMAGE": QUICKSTART},
)
"""What the examples' tests need besides; the demo does not."""


def bare_steps() -> list[Step]:
    """What tests on a real API server need; no rights of root."""
    return cluster.all_build_steps(("control-plane", "tools"))


def image_steps(*more: Recipe) -> list[Step]:
    """The images. They wait for each other, but not for the compilers."""
    steps = imagebuild.steps(*RECIPES, *more)
    return [replace(step, lane="images") if step.lane else step for step in steps]


def all_steps() -> list[Step]:
    """Programs, packages and images."""
    return [*cluster.all_build_steps(("control-plane", "nodes", "tools")), *image_steps()]


def client_steps() -> list[Step]:
    """Those of kubectl and helm that PATH lacks, for clusters that somebody else made."""
    known = {step.name: step for step in [*build.control_plane_steps(), *build.tool_steps()]}
    steps = {"kubectl": ("kubectl",), "helm": ("go toolchain", "helm")}
    return [known[name] for program, names in steps.items() if not which(program) for name in names]


def demo_steps() -> list[Step]:
    """What the demo needs on the chosen cluster. Raises: WrongUse when the choice is none."""
    chosen = read_choice().cluster
    if chosen == DEVCLUSTER:
        return all_steps()
    builds = chosen == KIND and find_obstacle_to_nodes() is None
    return [*client_steps(), *(image_steps() if builds else [])]


def setup_steps() -> list[Step]:
    """What demo and tests need: some tests have an API server of their own on every machine."""
    obstacle = find_obstacle()
    if obstacle is not None:
        print(f"set-up: {obstacle}; building what works without nodes", file=sys.stderr)
        return bare_steps()
    bare = bare_steps()
    names = {step.name for step in bare}
    return [*bare, *(step for step in demo_steps() if step.name not in names)]


def summary(outcomes: Sequence[Outcome], total_s: float) -> str:
    """The total and the slowest steps; one line when there was nothing to do."""
    built = sorted((o for o in outcomes if not o.cached), key=lambda o: -o.seconds)
    if not built:
        return f"set-up: all {len(outcomes)} parts are there ({total_s:.1f} s)"
    slowest = [f"  {o.seconds:7.1f} s  {o.name}" for o in built[:SHOWN]]
    return "\n".join([f"set-up took {total_s:.1f} s; the slowest steps:", *slowest])


def describe_sizes() -> str:
    """What our images take on a node, for those that are built."""
    found = [(tag, images.built(tag)) for tag in (recipe.tag for recipe in RECIPES)]
    sizes = [
        f"{tag.partition('/')[2]} {images.size_bytes(image) / 1e9:.2f} GB"
        for tag, image in found
        if image is not None
    ]
    return f"images, unpacked: {', '.join(sizes)}"


def name_in(registry: str, tag: str) -> str:
    """What an image of ours is called below a registry's address."""
    return f"{registry}/{tag.partition('/')[2]}"


def push_steps(registry: str) -> list[Step]:
    """Build the images and bring them to a registry."""
    steps = image_steps()
    needs = tuple(step.name for step in steps)
    return [*steps, Step("images pushed", partial(push, registry=registry), needs)]


def push(shell: Shell, registry: str) -> None:
    """Bring all images to a registry, with the credentials that buildah finds."""
    with imagebuild.building(shell):
        for recipe in RECIPES:
            target = f"docker://{name_in(registry, recipe.tag)}"
            shell.run([*imagebuild.buildah(), "push", recipe.tag, target])


def provide(steps: Sequence[Step]) -> None:
    """Build what is missing, and say how long it took. A signal is passed on to what is running.

    Raises: StepFailed, which has been told by then.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("set-up: ended by a signal; run it again"))
    if not steps:
        return
    began = time.monotonic()
    outcomes = run_steps(steps, logs=cache_dir() / "logs")
    print(summary(outcomes, time.monotonic() - began), file=sys.stderr)
    if any(outcome.name.startswith("image ") and not outcome.cached for outcome in outcomes):
        print(describe_sizes(), file=sys.stderr)


def main() -> int:
    """Build what is missing and can be used here."""
    try:
        provide(setup_steps())
    except StepFailed:
        return 1  # told where it happened
    except DevclusterError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
