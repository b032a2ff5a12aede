"""Bring a named cluster up, look at it, and take it down.

    cluster = up("demo")
    ... cluster.kubeconfig, cluster.audit_log ...
    down("demo")

`up` on a running cluster checks its health and returns it; what an interrupted `up`, a crash or a
reboot left behind is cleared away and the cluster is made anew. A cluster lives until `down`.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from devcluster import (
    build,
    extras,
    faults,
    imagebuild,
    images,
    imagestore,
    network,
    pki,
    processes,
    remains,
    slots,
)
from devcluster.controlplane import ControlPlane
from devcluster.detection import DETECTIONS
from devcluster.errors import Missing, WrongUse
from devcluster.node import PROGRAMS, Node, heartbeats
from devcluster.options import Options
from devcluster.paths import cache_dir, is_root, locked, state_dir, written_whole
from devcluster.processes import Home
from devcluster.slots import Place
from devcluster.steps import Shell, Step, run_steps
from devcluster.versions import NODE_PACKAGES

BUILD_GROUPS = ("control-plane", "nodes", "tools", "images")
EXTRAS = "extras"  # not among those above: few ask for them, and they take minutes
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kuberay")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that has a place; whether it is healthy is another question."""

    name: str
    place: Place
    options: Options

    @property
    def folder(self) -> Path:
        """Everything that the cluster keeps on disk."""
        return state_dir() / self.name

    @property
    def home(self) -> Home:
        """The records and logs of its programs."""
        return Home(self.folder)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "pki" / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON object per line for every request, but for reads by components."""
        return self.control_plane.audit_log

    @property
    def server(self) -> str:
        """The API server's address."""
        return self.control_plane.server

    @property
    def control_plane(self) -> ControlPlane:
        """The programs on the host."""
        has_nodes = self.options.nodes > 0
        detection = DETECTIONS[self.options.detection]
        return ControlPlane(self.home, self.place, build.binaries(), has_nodes, detection)

    @property
    def nodes(self) -> list[Node]:
        """The nodes; none in a bare cluster."""
        count, detection = self.options.nodes, DETECTIONS[self.options.detection]
        return [
            Node(self.name, self.home, self.place, build.binaries(), index, count, detection)
            for index in range(count)
        ]

    @property
    def environment(self) -> dict[str, str]:
        """What to add to a program's environment so that kubectl and helm work on this cluster."""
        path = f"{build.tools()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def components(self) -> list[str]:
        """The programs that must be running."""
        per_node = [
            node.component(program)
            for node in self.nodes
            for program in PROGRAMS
            if not faults.is_stopped(node)
        ]
        return [*self.control_plane_components(), *per_node]

    def control_plane_components(self) -> list[str]:
        """The programs on the host that must be running."""
        dns = ["coredns"] if self.options.nodes else []
        return [*CONTROL_PLANE, *dns, *extras.components(self.options)]

    def ailments(self) -> list[str]:
        """What is wrong with the cluster, one sentence each; empty when it is healthy."""
        on_purpose = {node.name: told for node in self.nodes if (told := faults.of(node).told)}
        found = [f"{name} is {told}" for name, told in on_purpose.items()]
        found += [f"{name} is not running" for name in self.components()
                  if not processes.runs(self.home, name)]  # fmt: skip
        if len(found) > len(on_purpose):
            return found
        api = self.control_plane.api()
        if not api.says_ok("/readyz"):
            return [*found, f"the API server at {self.server} is not ready"]
        known = {*on_purpose, *heartbeats(api)}
        return found + [
            f"{node.name} is not Ready" for node in self.nodes if node.name not in known
        ]

    def node(self, name: str) -> Node:
        """The node of this name. Raises: WrongUse when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes) or "none"
        raise WrongUse(f"{self.name} has no node {name!r}; it has {known}.")

    def recycle_volumes(self) -> int:
        """Empty the volumes whose claims are gone and offer them again; returns how many."""
        return self.control_plane.recycle_volumes()


def find(name: str) -> Cluster | None:
    """The cluster of this name, if one was brought up to the end."""
    place = slots.find(name)
    if place is None:
        return None
    try:
        options = Options(**json.loads((state_dir() / name / "cluster.json").read_text()))
    except FileNotFoundError:
        return None
    return Cluster(name, place, options)


def get(name: str) -> Cluster:
    """The cluster of this name. Raises: WrongUse when there is none."""
    cluster = find(name)
    if cluster is None:
        known = ", ".join(slots.names()) or "none"
        raise WrongUse(f"There is no cluster {name!r} (there are: {known}): bring it up first.")
    return cluster


def up(
    name: str, options: Options | None = None, wanted: Sequence[str] = (), *, quiet: bool = False
) -> Cluster:
    """Bring a cluster up, or check that it is; `wanted` are images that its nodes shall hold.

    Builds what is missing first.
    Raises: WrongUse when it is up with other options; StepFailed when a part does not start.
    """
    options = options or Options()
    slots.check_name(name)
    if options.nodes and not is_root():
        raise Missing("Nodes need root: run as root, or use --no-kubelets for a bare API server.")
    run_steps(build_steps(options), logs=cache_dir() / "logs", quiet=quiet)
    pictures = [images.resolve(text) for text in wanted]
    with locked(lock_of(name)):
        cluster = find(name)
        if cluster is not None:
            mend(cluster, quiet=quiet)
        if cluster is not None and not cluster.ailments():
            if cluster.options != options:
                raise WrongUse(f"{name} is up as {cluster.options}: run down before changing that.")
            cluster.recycle_volumes()
            load_images(cluster, pictures, quiet=quiet)
            return cluster
        return _start(Cluster(name, slots.take(name), options), pictures, quiet=quiet)


def lock_of(name: str) -> Path:
    """The file that is locked by whoever changes the cluster."""
    return state_dir() / f"{name}.lock"


def mend(cluster: Cluster, *, quiet: bool) -> None:
    """Undo what was done to nodes on purpose, if the control plane is there for them to join."""
    if all(processes.runs(cluster.home, name) for name in cluster.control_plane_components()):
        steps = [
            Step(f"{node.name} again", partial(faults.mend, node=node))
            for node in cluster.nodes
            if faults.of(node).told
        ]
        run_steps(steps, logs=cluster.folder / "logs" / "steps", quiet=quiet)


def build_steps(options: Options) -> list[Step]:
    """The parts that a cluster with these options needs."""
    steps = [*build.control_plane_steps(), *extras.build_steps(options)]
    if options.nodes:
        steps.append(build.package_step(NODE_PACKAGES))
        there = imagestore.pause_archive().exists
        steps.append(Step("pause image", imagestore.build_pause, ("debian packages",), there))
    return steps


def all_build_steps(groups: Sequence[str] = ()) -> list[Step]:
    """Everything that can be built beforehand; `groups` names some of BUILD_GROUPS or EXTRAS."""
    wanted = set(groups or BUILD_GROUPS)
    options = Options(nodes=2 if "nodes" in wanted else 0)
    if EXTRAS in wanted:
        options = replace(options, fake_nodes=1, kueue=True, s3=True)
    found = build_steps(options)
    if "tools" in wanted:
        found += build.tool_steps()
    if "images" in wanted:
        found += imagebuild.base_steps(list(imagebuild.BASES))
    return found


def _start(cluster: Cluster, pictures: Sequence[images.Image], *, quiet: bool) -> Cluster:
    with tempfile.TemporaryDirectory() as scratch:
        remains.clear(Shell(Path(scratch) / "clear.log"), cluster.name, cluster.place)
    cluster.folder.mkdir(parents=True)
    steps = start_steps(cluster, pictures)
    run_steps(steps, logs=cluster.folder / "logs" / "steps", quiet=quiet)
    with written_whole(cluster.folder / "cluster.json") as beside:
        beside.write_text(json.dumps(asdict(cluster.options)))
    return cluster


def start_steps(cluster: Cluster, pictures: Sequence[images.Image]) -> list[Step]:
    """The steps from an empty folder to a cluster that is ready."""
    plane, options = cluster.control_plane, cluster.options
    install = partial(plane.install_kuberay, crds=build.kuberay_crds())
    kuberay = partial(
        plane.start_kuberay,
        program=build.KUBERAY.folder / "kuberay",
        concurrency=options.kuberay_concurrency,
    )
    steps = [
        Step("certificates", lambda _: make_certificates(cluster)),
        Step("api server", plane.start_api, ("certificates",)),
        Step("controllers", plane.start_controllers, ("api server",)),
        Step("access and storage", plane.create_basics, ("api server",)),
        Step("kuberay resources", install, ("api server",)),
        Step("kuberay", kuberay, ("access and storage", "kuberay resources")),
        *extras.start_steps(plane, options),
    ]
    if not options.nodes:
        return steps
    steps[1] = Step("api server", plane.start_api, ("certificates", "network"))
    steps += [
        Step("network", lambda shell: make_network(shell, cluster)),
        Step("dns", plane.start_dns, ("access and storage",)),
    ]
    pause = images.from_archive(imagestore.pause_archive())
    for node in cluster.nodes:
        runtime = f"{node.name} runtime"
        fill = partial(load_all, node=node, pictures=[pause, *pictures])
        ready = partial(join, node=node, plane=plane)
        steps += [
            Step(runtime, node.start_runtime, ("network",)),
            Step(f"{node.name} images", fill, (runtime,)),
            Step(node.name, ready, ("api server", runtime)),
        ]
    return steps


def make_certificates(cluster: Cluster) -> None:
    """Write the certificates, and the file that names the DNS server."""
    node_names = [node.name for node in cluster.nodes]
    pki.make_cluster_pki(cluster.folder / "pki", cluster.place, cluster.server, node_names)
    (cluster.folder / "resolv.conf").write_text(f"nameserver {cluster.place.gateway}\n")


def make_network(shell: Shell, cluster: Cluster) -> None:
    """Make the bridge and connect all nodes."""
    network.make_bridge(shell, cluster.place)
    for node in cluster.nodes:
        network.attach_node(shell, cluster.name, cluster.place, node.index, node.count)


def join(shell: Shell, node: Node, plane: ControlPlane) -> None:
    """Start a node's kubelet; ready when the node is."""
    node.join(shell, plane.api())


def load_all(shell: Shell, node: Node, pictures: Sequence[images.Image]) -> None:
    """Give images to a node; those that it holds already are left out."""
    for picture in pictures:
        imagestore.load(shell, node.socket, node.images, picture)


def change_node(
    cluster: Cluster, node_name: str, verb: Callable[[Shell, Node], None], *, quiet: bool = False
) -> None:
    """Do one of the verbs of faults.py to a node of a running cluster.

    Raises: WrongUse when there is no such node, or the verb does not fit its state.
    """
    node = cluster.node(node_name)
    with locked(lock_of(cluster.name)):
        steps = [Step(node.name, lambda shell: verb(shell, node))]
        run_steps(steps, logs=cluster.folder / "logs" / "steps", quiet=quiet)


def load_images(cluster: Cluster, pictures: Sequence[images.Image], *, quiet: bool = False) -> None:
    """Give images to the nodes of a running cluster; those that they hold already are left out."""
    steps = []
    for node in cluster.nodes:
        held = imagestore.held(node.images)
        lacking = [p for p in pictures if held.get(p.reference) != p.fingerprint]
        fill = partial(load_all, node=node, pictures=lacking)
        steps.append(Step(f"{node.name} images", fill, done=partial(bool, not lacking)))
    run_steps(steps, logs=cluster.folder / "logs" / "steps", quiet=quiet)


def down(name: str) -> bool:
    """Remove the cluster and everything it left on the machine; whether there was anything.

    Works on clusters in any state, also on one whose processes were killed.
    """
    slots.check_name(name)
    with locked(lock_of(name)):
        place = slots.find(name)
        if place is None:
            return False
        with tempfile.TemporaryDirectory() as scratch:
            remains.clear(Shell(Path(scratch) / "clear.log"), name, place)
        slots.give_back(name)
        lock_of(name).unlink(missing_ok=True)
    return True
