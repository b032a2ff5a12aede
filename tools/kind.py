"""A kind cluster as the demo and the tests need it: two workers, shared volumes, KubeRay, images.

Written for a Docker engine and tried with recorded programs alone, since there was none where this
was made; beside that, the objects on a real API server and the archives on a real containerd.
Volumes are folders of this machine that all nodes see, as many as the dev cluster has; one that
was used is not offered again before `make down`.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from devcluster import imagebuild, images, manifests
from devcluster.errors import DevclusterError
from devcluster.imagebuild import Recipe
from devcluster.paths import remove, written_whole
from devcluster.steps import Shell, Step, run_steps
from tools import install
from tools.choice import KIND
from tools.existing import kuberay_install
from tools.ground import find_obstacle_to_nodes
from tools.images import RECIPES, ROOT
from tools.target import Target, client_environment

UNTRIED = "CLUSTER=kind: untried with a real Docker engine; please tell how it went."
VOLUMES = "/var/lib/shared-volumes"
WORKERS = 2
READY_S = 180


def folder_of(name: str) -> Path:
    """Everything of a cluster that is not in its containers."""
    return ROOT / "build" / "kind" / name


def kind_name(name: str) -> str:
    """What kind calls the cluster; nobody else's is called so."""
    return f"dsjob-{name}"


def target_of(name: str) -> Target:
    """How a cluster of this name is reached."""
    kubeconfig = folder_of(name) / "kubeconfig"
    environment = client_environment(str(kubeconfig))
    return Target(name, environment, f"export KUBECONFIG={kubeconfig}", words=f"CLUSTER={KIND}")


def up(name: str) -> Target:
    """The cluster of this name with KubeRay, volumes and our images, made if need be.

    Raises: StepFailed when a program of kind or Docker says no.
    """
    print(UNTRIED, flush=True)
    target = target_of(name)
    run_steps(steps(target), logs=folder_of(name) / "logs")
    return target


def down(name: str) -> bool:
    """Delete the cluster and its volumes; whether there was one."""
    print(UNTRIED, flush=True)
    there = kind_name(name) in _names()
    if there:
        # What pods wrote belongs to their users; on a node anybody may delete it.
        empty = ("sh", "-c", f"rm -rf {VOLUMES}/*/* {VOLUMES}/*/.[!.]*")
        install.run(target_of(name), "docker", "exec", f"{kind_name(name)}-worker", *empty)
        install.run(target_of(name), "kind", "delete", "cluster", "--name", kind_name(name))
    try:
        remove(folder_of(name))
    except OSError as error:
        raise DevclusterError(f"{error}: remove {folder_of(name)} as its owner.") from error
    return there


def steps(target: Target) -> list[Step]:
    """From nothing, or from an earlier run, to a cluster that is ready for the chart."""
    loads = [
        Step(f"{recipe.tag} on nodes", partial(load_image, name=target.name, recipe=recipe),
             ("kind cluster",), lane="images")
        for recipe in RECIPES
    ]  # fmt: skip
    return [
        Step("kind cluster", lambda shell: make_cluster(shell, target.name)),
        Step("kuberay", lambda _: install_kuberay(target), ("kind cluster",)),
        Step("storage", lambda _: apply_storage(target), ("kind cluster",)),
        *loads,
    ]


def cluster_config(volumes: Path) -> dict[str, Any]:
    """What kind is told of the cluster: workers that share a folder of this machine."""
    mount = {"hostPath": str(volumes), "containerPath": VOLUMES}
    workers = [{"role": "worker", "extraMounts": [mount]} for _ in range(WORKERS)]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": "control-plane"}, *workers],
    }


def make_cluster(shell: Shell, name: str) -> None:
    """Make the cluster, or fetch the kubeconfig of the one that is there."""
    kubeconfig = ("--name", kind_name(name), "--kubeconfig", folder_of(name) / "kubeconfig")
    if kind_name(name) in _names():
        shell.run(["kind", "export", "kubeconfig", *kubeconfig])
        return
    remove(folder_of(name) / "loaded.json")
    volumes = folder_of(name) / "volumes"
    for volume in manifests.volume_names():
        (volumes / volume).mkdir(parents=True, exist_ok=True)
        (volumes / volume).chmod(0o777)
    config = folder_of(name) / "kind.json"  # JSON is YAML
    config.write_text(json.dumps(cluster_config(volumes), indent=1))
    wait = ("--wait", f"{READY_S}s")
    shell.run(["kind", "create", "cluster", *kubeconfig, "--config", config, *wait])


def install_kuberay(target: Target) -> None:
    """Install KubeRay by its chart in the version that is tested here."""
    install.helm(target, *kuberay_install())


def apply_storage(target: Target) -> None:
    """Create the storage class and its volumes."""
    objects = {"apiVersion": "v1", "kind": "List", "items": manifests.storage(Path(VOLUMES))}
    apply = ("kubectl", "apply", "--server-side", "-f", "-")
    install.run(target, *apply, stdin=json.dumps(objects))


def load_image(shell: Shell, name: str, recipe: Recipe) -> None:
    """Give an image to all nodes, unless they hold this very one."""
    record = folder_of(name) / "loaded.json"
    loaded = json.loads(record.read_text()) if record.exists() else {}
    fingerprint = provide_image(shell, recipe)
    if loaded.get(recipe.tag) == fingerprint:
        return
    archive = folder_of(name) / "image.tar"
    try:
        archive_image(shell, recipe.tag, archive)
        shell.run(["kind", "load", "image-archive", archive, "--name", kind_name(name)])
    finally:
        remove(archive)
    with written_whole(record) as beside:
        beside.write_text(json.dumps({**loaded, recipe.tag: fingerprint}))


def provide_image(shell: Shell, recipe: Recipe) -> str:
    """Build the image with the engine where set-up could not build it; returns its id."""
    if find_obstacle_to_nodes() is None:
        return images.resolve(recipe.tag).fingerprint
    words: list[str | Path] = ["--file", recipe.file, "--tag", recipe.tag]
    for argument, base in recipe.bases.items():
        if base not in imagebuild.BASES:
            words += ["--build-arg", f"{argument}={base}"]
    shell.run(["docker", "build", *words, recipe.context])
    return shell.output(["docker", "image", "inspect", "--format", "{{.Id}}", recipe.tag]).strip()


def archive_image(shell: Shell, tag: str, archive: Path) -> None:
    """Write an image and its name into a file, from where it was built."""
    if find_obstacle_to_nodes() is None:
        with imagebuild.building(shell):
            shell.run([*imagebuild.buildah(), "push", tag, f"docker-archive:{archive}:{tag}"])
    else:
        shell.run(["docker", "save", "--output", archive, tag])


def _names() -> list[str]:
    return install.run(target_of("none"), "kind", "get", "clusters").split()
