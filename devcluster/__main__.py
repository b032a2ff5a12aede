"""The command line: parses, prints, and calls the modules that do the work.

Exit code 1 means that what was asked for did not happen; the last line says why.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from devcluster import build as parts
from devcluster import cluster as clusters
from devcluster import faults, imagebuild, images, report, s3, slots
from devcluster.detection import DETECTIONS
from devcluster.errors import DevclusterError, StepFailed, WrongUse
from devcluster.imagebuild import Recipe
from devcluster.options import Options
from devcluster.paths import cache_dir
from devcluster.steps import run_steps

name_option = click.option("--name", default="dev", show_default=True, help="The cluster's name.")
folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Kubernetes on one Linux machine without Docker."""


@main.command()
@name_option
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 9))
@click.option("--no-kubelets", is_flag=True, help="API server, controllers and KubeRay only.")
@click.option("--image", "wanted", multiple=True, help="Archive or name of an image for the nodes.")
@click.option("--kuberay-concurrency", default=4, show_default=True)
@click.option("--detection", type=click.Choice(list(DETECTIONS)), default="fast", show_default=True,
              help="How soon a lost node is noticed: as Kubernetes does, or quicker.")  # fmt: skip
@click.option("--fake-nodes", default=0, show_default=True, type=click.IntRange(0, 999),
              help="Nodes without a machine: their pods are Ready and run nothing.")  # fmt: skip
@click.option("--kueue", is_flag=True, help="Kueue, for RayClusters, RayJobs and Jobs.")
@click.option("--s3", is_flag=True, help="An S3 server; `s3` tells its address and credentials.")
def up(name: str, nodes: int, no_kubelets: bool, wanted: tuple[str, ...], **more: Any) -> None:
    """Bring a cluster up; if it is up, undo what was done to its nodes and check its health."""
    began = time.monotonic()
    options = Options(0 if no_kubelets else nodes, **more)
    cluster = clusters.up(name, options, wanted)
    click.echo(f"{name} is up after {time.monotonic() - began:.1f} s: {cluster.server}")
    click.echo(f"  export KUBECONFIG={cluster.kubeconfig} PATH={parts.tools()}:$PATH")


@main.command()
@name_option
def down(name: str) -> None:
    """Remove a cluster and all that it left on the machine."""
    began = time.monotonic()
    if clusters.down(name):
        click.echo(f"{name} is gone after {time.monotonic() - began:.1f} s")
    else:
        click.echo(f"there is no cluster {name}")


@main.command()
@click.option("--name", default=None, help="The cluster's name; all of them without.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def status(name: str | None, as_json: bool) -> None:
    """Say where a cluster's things are and how its components do; exit 1 if any is ill."""
    if name is None and not as_json:
        known = [found for each in slots.names() if (found := clusters.find(each))]
        described = [report.describe(cluster) for cluster in known]
        click.echo("\n".join(map(report.as_text, described)) or "no cluster")
    else:
        described = [report.describe(clusters.get(name or "dev"))]
        click.echo(json.dumps(described[0], indent=1) if as_json else report.as_text(described[0]))
    if not all(each["healthy"] for each in described):
        sys.exit(1)


@main.command()
@click.option("--only", type=click.Choice([*clusters.BUILD_GROUPS, clusters.EXTRAS]), multiple=True)
def build(only: tuple[str, ...]) -> None:
    """Build or fetch the parts of clusters into the cache; what is there is left alone.

    Without --only all but the extras, which `up` builds when it is asked for them.
    """
    run_steps(clusters.all_build_steps(only), logs=cache_dir() / "logs")


@main.command("build-image")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--context", type=folder, required=True, help="The folder that COPY takes from.")
@click.option("--tag", required=True, help="The image's name, as pods shall call it.")
@click.option("--target", default="", help="The stage to build.")
@click.option("--build-arg", "arguments", multiple=True, metavar="KEY=VALUE")
@click.option("--base", "bases", multiple=True, metavar="KEY[=debian|builder]",
              help="Give this build argument the name of one of our base images.")  # fmt: skip
@click.option("--mount", "mounts", multiple=True, metavar="SRC:DST",
              help="Lend the build a folder, read-only: one with wheels, say.")  # fmt: skip
def build_image(
    *,
    file: Path,
    context: Path,
    tag: str,
    target: str,
    arguments: tuple[str, ...],
    bases: tuple[str, ...],
    mounts: tuple[str, ...],
) -> None:
    """Build an image from a Dockerfile; unchanged, it is found in the cache."""
    recipe = Recipe(
        tag,
        file,
        context,
        target,
        arguments=dict(_pair(text, "") for text in arguments),
        bases=dict(_pair(text, "debian") for text in bases),
        mounts={inside: Path(folder) for folder, _, inside in (m.partition(":") for m in mounts)},
    )
    run_steps(imagebuild.steps(recipe), logs=cache_dir() / "logs")
    click.echo(tag)


def _pair(text: str, default: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value or default


@main.command("load-image")
@name_option
@click.argument("wanted", nargs=-1, required=True)
def load_image(name: str, wanted: tuple[str, ...]) -> None:
    """Give images to the nodes of a running cluster, and to the ones to come."""
    cluster = clusters.get(name)
    clusters.load_images(cluster, [images.resolve(text) for text in wanted])


@main.command()
@name_option
@click.argument("component", required=False)
@click.option("--lines", default=200, show_default=True)
def logs(name: str, component: str | None, lines: int) -> None:
    """Print the end of a component's log; without one, the names of all components."""
    cluster = clusters.get(name)
    if component is None:
        click.echo("\n".join(cluster.components()))
        return
    log = cluster.home.log(component)
    if not log.exists():
        known = ", ".join(cluster.components())
        raise WrongUse(f"{name} has no component {component!r}; it has {known}.")
    click.echo("\n".join(log.read_text(errors="replace").splitlines()[-lines:]))


@main.command()
@name_option
@click.option("--content", is_flag=True, help="Print the file, not its path.")
def kubeconfig(name: str, content: bool) -> None:
    """Print the path of the administrator's kubeconfig."""
    path = clusters.get(name).kubeconfig
    click.echo(path.read_text() if content else path)


@main.command("s3")
@name_option
@click.option("--content", is_flag=True, help="Print the file, not its path.")
def show_s3(name: str, content: bool) -> None:
    """Print the path of the file with the S3 server's address and credentials."""
    cluster = clusters.get(name)
    if not cluster.options.s3:
        raise WrongUse(f"{name} has no S3 server: bring it up with --s3.")
    path = s3.environment_file(cluster.folder)
    click.echo(path.read_text().rstrip() if content else path)


node_argument = click.argument("node")


@main.command("stop-node")
@name_option
@node_argument
def stop_node(name: str, node: str) -> None:
    """Take a node's power away: its pods end at once and no one is told."""
    clusters.change_node(clusters.get(name), node, faults.stop)


@main.command("start-node")
@name_option
@node_argument
def start_node(name: str, node: str) -> None:
    """Give a stopped node its power back, and wait until it is Ready."""
    clusters.change_node(clusters.get(name), node, faults.start)


@main.command("partition-node")
@name_option
@node_argument
def partition_node(name: str, node: str) -> None:
    """Cut a node off from the control plane and the other nodes; its pods go on."""
    clusters.change_node(clusters.get(name), node, faults.partition)


@main.command("slow-node")
@name_option
@node_argument
@click.option("--cpu", type=click.FloatRange(min=0.01), help="Cores for all its pods together.")
@click.option("--rate-mbit", type=click.FloatRange(min=0.1), help="Mbit/s through its cable.")
def slow_node(name: str, node: str, cpu: float | None, rate_mbit: float | None) -> None:
    """Limit a node's processor or network; what is not given is not limited any more."""
    if cpu is None and rate_mbit is None:
        raise click.UsageError("give --cpu or --rate-mbit; heal-node lifts both")
    slow = partial(faults.slow, cores=cpu, mbit_s=rate_mbit)
    clusters.change_node(clusters.get(name), node, slow)


@main.command("heal-node")
@name_option
@node_argument
def heal_node(name: str, node: str) -> None:
    """Undo partition-node and slow-node, and wait until the node is Ready."""
    clusters.change_node(clusters.get(name), node, faults.heal)


@main.command()
def prune() -> None:
    """Delete all images from the cache; only while no cluster is up."""
    freed = imagebuild.prune()
    click.echo(f"{freed / 1e9:.1f} GB freed")


if __name__ == "__main__":
    try:
        main()
    except StepFailed:
        sys.exit(1)  # told where it happened
    except DevclusterError as error:
        click.echo(f"devcluster: {error}", err=True)
        sys.exit(1)
