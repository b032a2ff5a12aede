"""Build images from Dockerfiles with buildah, and our own base images with debootstrap.

An image is built again only when something that goes into it has changed: the Dockerfile, a file
that it can see, an argument, its bases. buildah's own cache of layers then decides how much of it.
What belongs to this machine (certificates, pip's configuration) is lent to the build, not baked in.
"""

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from devcluster import build, ignorefile, images, slots, versions
from devcluster.errors import Missing, WrongUse
from devcluster.images import Image
from devcluster.paths import cache_dir, digest, is_root, locked, remove, run_dir, written_whole
from devcluster.steps import Shell, Step

CERTIFICATES = Path("/etc/ssl/certs")
PIP_CONFIG = "/etc/pip.conf"
DEBIAN_ARCHIVE = "http://deb.debian.org/debian"
PACKAGES_STEP = "image tools"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is built from.

    bases: build argument -> "debian", "builder" (our base images) or the tag of an image built
    here before. mounts: path in the build -> folder of this machine, read-only, for instance one
    with wheels; its file names and sizes count as input.
    """

    tag: str
    file: Path
    context: Path
    target: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, Path] = field(default_factory=dict)

    def key(self) -> str:
        """The digest of everything that goes into the image."""
        rules = ignorefile.ignore_file(self.file, self.context)
        files = ignorefile.visible_files(self.context, ignorefile.read_patterns(rules))
        seen = [(str(f.relative_to(self.context)), f.lstat().st_mode, _content(f)) for f in files]
        lent = [
            (inside, file.name, file.stat().st_size)
            for inside, folder in self.mounts.items()
            for file in sorted(folder.iterdir())
        ]
        bases = {argument: _fingerprint(base) for argument, base in self.bases.items()}
        inputs = [self.tag, self.target, self.arguments, bases, lent, seen]
        return digest(self.file, json.dumps(inputs, sort_keys=True))


def _content(file: Path) -> str:
    return str(file.readlink()) if file.is_symlink() else digest(file)


@dataclass(frozen=True, slots=True)
class Base:
    """One of our base images."""

    tag: str
    packages: tuple[str, ...]
    below: str = ""

    def key(self) -> str:
        """The digest of everything that goes into the image."""
        return digest(versions.DEBIAN, *self.packages, self.below)


BASES = {
    "debian": Base(f"localhost/devcluster/debian:{versions.DEBIAN}", versions.BASE_IMAGE_PACKAGES),
    "builder": Base(
        f"localhost/devcluster/builder:{versions.DEBIAN}", versions.BUILDER_IMAGE_PACKAGES, "debian"
    ),
}


def _fingerprint(base: str) -> str:
    """What stands for a base image in the key of those built on it."""
    if base in BASES:
        return BASES[base].key()
    image = images.built(base)
    return image.fingerprint if image else "none"


def _base_record(base: Base) -> Path:
    return images.storage() / f"devcluster-{digest(base.tag, base.key())}"


def buildah() -> list[str | Path]:
    """The words that start buildah on our own storage, apart from the user's."""
    run_root = run_dir() / ".buildah"
    return [
        "buildah",
        "--root",
        images.storage(),
        "--runroot",
        run_root,
        "--storage-driver",
        "overlay",
    ]


def base_steps(kinds: Sequence[str]) -> list[Step]:
    """Make these base images, and those that they stand on, and what is needed to do so."""
    packages = build.package_step(versions.IMAGE_PACKAGES, PACKAGES_STEP)
    wanted = sorted({*kinds, *(BASES[kind].below for kind in kinds)} - {""})
    steps = [packages]
    for kind in wanted:
        base = BASES[kind]
        needs = (PACKAGES_STEP, *([f"base image {base.below}"] if base.below else []))
        make = partial(make_builder if base.below else make_debian, base=base)
        steps.append(Step(f"base image {kind}", make, needs, _base_record(base).exists))
    return steps


def steps(*recipes: Recipe) -> list[Step]:
    """Build these images, in this order where one is the base of another, and their bases."""
    used = [base for recipe in recipes for base in recipe.bases.values()]
    found = base_steps([base for base in used if base in BASES])
    tags = {recipe.tag for recipe in recipes}
    for recipe in recipes:
        ours = [f"base image {base}" for base in recipe.bases.values() if base in BASES]
        others = [f"image {base}" for base in recipe.bases.values() if base in tags]
        needs = (PACKAGES_STEP, *ours, *others)
        found.append(
            Step(f"image {recipe.tag}", partial(make_image, recipe=recipe), needs,
                 partial(is_built, recipe), lane=build.CORES)
        )  # fmt: skip
    return found


def is_built(recipe: Recipe) -> bool:
    """Whether the newest image of this name was made from exactly this."""
    return images.built(recipe.tag, recipe.key()) is not None


def make_image(shell: Shell, recipe: Recipe) -> None:
    """Build one image and record what it was built from."""
    key = recipe.key()
    arguments = {
        **recipe.arguments,
        **{name: BASES[base].tag if base in BASES else base for name, base in recipe.bases.items()},
    }
    words: list[str | Path] = ["--file", recipe.file, "--tag", recipe.tag]
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    if recipe.target:
        words += ["--target", recipe.target]
    rules = ignorefile.ignore_file(recipe.file, recipe.context)
    if rules is not None:
        words += ["--ignorefile", rules]
    with building(shell), lent(recipe.mounts) as loans:
        common = ["bud", "--layers", "--format", "oci", *_isolation(), *loans]
        shell.run([*buildah(), *common, *words, recipe.context])
        image_id = shell.output([*buildah(), "images", "--quiet", "--no-trunc", recipe.tag])
        images.remember(Image(recipe.tag, image_id.strip().removeprefix("sha256:")), key)


def _isolation() -> list[str]:
    # crun, which buildah prefers, refuses machines that have both versions of control groups.
    runc = shutil.which("runc", path=build.program_path())
    if runc is None:
        raise Missing("There is no runc: install the Debian package runc.")
    return ["--isolation", "oci", "--runtime", runc, "--network", "host"]


def make_debian(shell: Shell, base: Base) -> None:
    """Make the base image: Debian's minimal set and Python."""
    with building(shell), working_container(shell, "scratch") as (container, root):
        include = f"--include={','.join(base.packages)}"
        archive = debian_archive()
        shell.run(["debootstrap", "--variant=minbase", include, versions.DEBIAN, root, archive])
        (root / "etc/apt/sources.list").write_text(f"deb {DEBIAN_ARCHIVE} {versions.DEBIAN} main\n")
        (root / PIP_CONFIG.lstrip("/")).touch()  # lent files need a place to be mounted on
        _forget_packages(root)
        _commit(shell, container, base)


def make_builder(shell: Shell, base: Base) -> None:
    """Make the second base image: the first one and a compiler."""
    with (
        building(shell),
        working_container(shell, BASES[base.below].tag) as (container, root),
        tempfile.NamedTemporaryFile("w") as sources,
    ):
        sources.write(f"deb {debian_archive()} {versions.DEBIAN} main\n")
        sources.flush()
        loan = f"{sources.name}:/etc/apt/sources.list:ro"
        run = [*buildah(), "run", *_isolation(), "--volume", loan]
        run += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", container, "--"]
        shell.run([*run, "apt-get", "update", "-qq"])
        install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends"]
        shell.run([*run, *install, *base.packages], env={"DEBIAN_FRONTEND": "noninteractive"})
        _forget_packages(root)
        _commit(shell, container, base)


def _forget_packages(root: Path) -> None:
    """Delete what apt has downloaded, which no image needs."""
    for pattern in ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*"):
        for file in root.glob(pattern):
            file.unlink()


def _commit(shell: Shell, container: str, base: Base) -> None:
    shell.run([*buildah(), "commit", "--format", "oci", container, base.tag])
    with written_whole(_base_record(base)) as beside:
        beside.touch()


@contextmanager
def building(shell: Shell) -> Iterator[None]:
    """Have buildah's storage to oneself; first removes what an interrupted build left there."""
    if not is_root():
        raise Missing("Building images needs root.")
    images.storage().mkdir(parents=True, exist_ok=True)
    with locked(_lock()):
        shell.run([*buildah(), "rm", "--all"])
        yield


def _lock() -> Path:
    return cache_dir() / "build.lock"


@contextmanager
def working_container(shell: Shell, image: str) -> Iterator[tuple[str, Path]]:
    """A container to work in: its name and its root folder."""
    container = shell.output([*buildah(), "from", image]).strip()
    try:
        yield container, Path(shell.output([*buildah(), "mount", container]).strip())
    finally:
        subprocess.run([*buildah(), "rm", container], capture_output=True, check=False)


@contextmanager
def lent(mounts: dict[str, Path]) -> Iterator[list[str]]:
    """Options that lend a build what this machine has: folders, certificates, settings of pip."""
    settings = pip_settings()
    folders = [Path(word) for word in settings.get("find-links", "").split()]
    own = {str(folder): folder for folder in folders if folder.is_dir()}
    volumes = {**own, **{inside: folder.absolute() for inside, folder in mounts.items()}}
    if CERTIFICATES.is_dir():
        volumes[str(CERTIFICATES)] = CERTIFICATES
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        parser = configparser.ConfigParser(interpolation=None)
        parser["global"] = {name: text.replace("\n", "\n ") for name, text in settings.items()}
        parser.write(config)
        config.flush()
        Path(config.name).chmod(0o644)
        volumes[PIP_CONFIG] = Path(config.name)
        yield [w for inside, path in volumes.items() for w in ("--volume", f"{path}:{inside}:ro")]


def pip_settings() -> dict[str, str]:
    """What pip is set to on this machine, by files and, stronger, by its environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    files: dict[str, str] = {}
    environment: dict[str, str] = {}
    for line in told.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        (environment if section == ":env:" else files)[option] = str(ast.literal_eval(value))
    settings = {**files, **environment}
    return {name: text for name, text in settings.items() if name not in ("config-file", "user")}


def debian_archive() -> str:
    """The archive that this machine takes Debian from, if it is one; else Debian's own."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    found = re.search(rf"^(\S+) {versions.DEBIAN}$", told, re.MULTILINE)
    return found.group(1).rstrip("/") if found else DEBIAN_ARCHIVE


def prune() -> int:
    """Delete all images that were built or unpacked; returns the bytes that were freed.

    Raises: WrongUse while a cluster is up, for its nodes use the layers in here.
    """
    if names := slots.names():
        raise WrongUse(f"Clusters {', '.join(names)} use the images: end them first.")
    folder = cache_dir() / "images"
    before = shutil.disk_usage(cache_dir()).free
    with locked(_lock()):
        subprocess.run([*buildah(), "rm", "--all"], capture_output=True, check=False)
        remove(folder)
    return shutil.disk_usage(cache_dir()).free - before
