"""The trainer's own tests, run where the trainer runs: in its image, as its user, without network.

They need torch, Ray and DeepSpeed of exactly the image's versions, which no contributor's machine
has to hold. Their output is printed, so a failure reads as if they had been run directly.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import imagebuild
from devcluster.steps import Shell
from tools.images import TRAINER

pytestmark = pytest.mark.usefixtures("own_ground")
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("/opt/trainer/bin/python", "-m", "pytest", "-c", "/src/tests/trainer/pytest.ini")
ACCELERATE = "accelerate==1.15.0"
LIMIT_S = 3600


@pytest.mark.seed("S4", "DeepSpeed's ops built in advance")
@pytest.fixture(scope="module")
def pytest_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest and what the tests' programs need, to be put beside what the image holds."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    hub = ("huggingface_hub", "safetensors")
    subprocess.run([*install, f"pytest=={pytest.__version__}", *hub], check=True)
    subprocess.run([*install, "--no-deps", ACCELERATE], check=True)  # the image has its torch
    return folder


def test_the_trainers_own_tests_pass_in_its_image(pytest_folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    lent = [f"--volume={ROOT}:/src:ro", f"--volume={pytest_folder}:/site:ro"]
    lent += [f"--volume={tmp_path}:/tmp:rw", "--volume=/dev/shm:/dev/shm:rw"]
    # Ray looks up its host's name, and without network only this one has an address.
    place = ["--isolation", "oci", "--runtime", "/usr/sbin/runc"]
    place += ["--network", "none", "--hostname", "localhost"]
    as_user = ["--user", "1000", "--workingdir", "/src", "--env", "PYTHONPATH=/site"]
    tests = ["-p", "no:cacheprovider", "--basetemp=/tmp/tests", "/src/tests/trainer"]
    shell = Shell(tmp_path / "buildah.log")
    with imagebuild.working_container(shell, TRAINER) as (container, _):
        run = [*imagebuild.buildah(), "run", *place, *lent, *as_user, container, "--"]
        done = subprocess.run(
            [*run, *PROGRAM, *tests], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]
