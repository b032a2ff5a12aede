"""The command line: python -m devcluster up|down|status|build|build-image|load-image|logs|kubeconfig.

Parses and prints; everything else is in the modules that it calls. Exit code 1 means that what was
asked for did not happen, and the last line says why.
"""

import json
import sys
import time

import click

from devcluster import cluster as clusters
from devcluster import slots
from devcluster.cluster import Options
from devcluster.errors import DevclusterError, StepFailed

name_option = click.option("--name", default="dev", show_default=True, help="The cluster's name.")


@click.group()
def main() -> None:
    """Kubernetes on one Linux machine without Docker."""


@main.command()
@name_option
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 9))
@click.option("--no-kubelets", is_flag=True, help="API server, controllers and KubeRay only.")
@click.option("--image", "images", multiple=True, help="Archive or name of an image for the nodes.")
@click.option("--kuberay-concurrency", default=4, show_default=True)
def up(name: str, nodes: int, no_kubelets: bool, images: tuple[str, ...], kuberay_concurrency: int) -> None:
    """Bring a cluster up; if it is up, check its health."""
    began = time.monotonic()
    options = Options(0 if no_kubelets else nodes, kuberay_concurrency)
    cluster = clusters.up(name, options, images)
    click.echo(f"{name} is up after {time.monotonic() - began:.1f} s: {cluster.server}")
    click.echo(f"  export KUBECONFIG={cluster.kubeconfig}")


@main.command()
@name_option
def down(name: str) -> None:
    """Remove a cluster and all that it left on the machine."""
    began = time.monotonic()
    existed = clusters.down(name)
    click.echo(f"{name} is gone after {time.monotonic() - began:.1f} s" if existed else f"no {name}")


if __name__ == "__main__":
    try:
        main()
    except StepFailed:
        sys.exit(1)  # told where it happened
    except DevclusterError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
