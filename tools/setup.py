"""Make the folder .venv with everything a contributor needs: `python -m tools.setup`.

Runs on any Python from 3.11 with nothing installed, so it uses the standard library alone. What
was installed is marked inside .venv by the digest of pyproject.toml; an interrupted run leaves no
mark and is simply run again. Building programs and images comes after, in tools/images.py.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from devcluster.errors import DevclusterError, Missing
from devcluster.paths import digest, locked, written_whole
from devcluster.steps import Shell, Step, run_steps

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
MARK = VENV / "installed"
LOGS = ROOT / "build" / "logs"


def wanted_mark() -> str:
    """What the mark says when .venv is up to date: dependencies and interpreter."""
    return digest(ROOT / "pyproject.toml", sys.version)


def is_ready() -> bool:
    """Whether .venv holds what pyproject.toml asks for."""
    return PYTHON.exists() and MARK.exists() and MARK.read_text() == wanted_mark()


def works() -> bool:
    """Whether .venv is a virtual environment whose pip runs; an interrupted one may not be."""
    if not PYTHON.exists():
        return False
    probe = (PYTHON, "-m", "pip", "--version")
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def provide_venv_module(shell: Shell) -> None:
    """Install what Debian ships apart from Python. Raises: Missing, with the fix."""
    if find_spec("ensurepip") is not None:
        return
    if os.geteuid() != 0 or which("apt-get") is None:
        raise Missing(
            f"{sys.executable} cannot make a virtual environment: install its venv module "
            "(Debian: apt-get install python3-venv)."
        )
    shell.run(["apt-get", "update"])
    shell.run(["apt-get", "install", "--yes", "--no-install-recommends", "python3-venv"])


def install(shell: Shell) -> None:
    """Make .venv, or adopt the one that is there, and install the project with its dev extra."""
    if not works():
        provide_venv_module(shell)
        shell.run([sys.executable, "-m", "venv", "--clear", VENV])
    quietly = ("--quiet", "--disable-pip-version-check")
    shell.run([PYTHON, "-m", "pip", "install", *quietly, "--editable", f"{ROOT}[dev]"])
    with written_whole(MARK) as beside:
        beside.write_text(wanted_mark())


def main() -> int:
    """Bring .venv up to date; says nothing when it is."""
    try:
        with locked(ROOT / "build" / "setup.lock"):
            if not is_ready():
                run_steps([Step("python packages", install)], logs=LOGS)
    except DevclusterError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
