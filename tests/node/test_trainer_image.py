"""The trainer's own tests, run where the trainer runs: in its image, as its user, without network.

The examples' programs run in the examples' image, which is the trainer's with more packages.

They need torch, Ray and DeepSpeed of exactly the image's versions, which no contributor's machine
has to hold. Their output is printed, so a failure reads as if they had been run directly.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import imagebuild
from devcluster.steps import Shell, run_steps
from tools.images import EXAMPLES, FOR_EXAMPLES, TRAINER, image_steps

pytestmark = pytest.mark.usefixtures("own_ground")
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("/opt/trainer/bin/python", "-m", "pytest", "-c", "/src/tests/trainer/pytest.ini")
ACCELERATE = "accelerate==1.15.0"
LIMIT_S = 3600


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest, to be put beside what an image holds."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    install(folder, f"pytest=={pytest.__version__}")
    return folder


def install(folder: Path, *packages: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    subprocess.run([*pip, *packages], check=True)


@pytest.mark.seed("S4", "DeepSpeed's ops built in advance")
def test_the_trainers_own_tests_pass_in_its_image(site: Path, tmp_path: Path) -> None:
    install(site, "huggingface_hub", "safetensors")
    install(site, "--no-deps", ACCELERATE)  # the image has its torch
    run_inside(TRAINER, "/src/tests/trainer", site, tmp_path)


def test_the_examples_pass_in_their_image(site: Path, tmp_path: Path) -> None:
    run_steps(image_steps(FOR_EXAMPLES), logs=tmp_path)
    run_inside(EXAMPLES, "/src/tests/trainer/test_examples.py", site, tmp_path)


def run_inside(image: str, tests: str, site: Path, tmp_path: Path) -> None:
    """Run tests in a container of an image; their report goes to build/reports."""
    inside = tmp_path / "inside"
    inside.mkdir()
    inside.chmod(0o777)
    lent = [f"--volume={ROOT}:/src:ro", f"--volume={site}:/site:ro"]
    lent += [f"--volume={inside}:/tmp:rw", "--volume=/dev/shm:/dev/shm:rw"]
    # Ray looks up its host's name, and without network only this one has an address.
    place = ["--isolation", "oci", "--runtime", "/usr/sbin/runc"]
    place += ["--network", "none", "--hostname", "localhost"]
    as_user = ["--user", "1000", "--workingdir", "/src", "--env", "PYTHONPATH=/site"]
    words = ["-p", "no:cacheprovider", "--basetemp=/tmp/tests", tests]
    words += ["--junitxml=/tmp/report.xml", "--junitprefix=tests.trainer"]
    shell = Shell(tmp_path / "buildah.log")
    with imagebuild.working_container(shell, image) as (container, _):
        run = [*imagebuild.buildah(), "run", *place, *lent, *as_user, container, "--"]
        done = subprocess.run(
            [*run, *PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
    print(done.stdout)
    reports = ROOT / "build" / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    shutil.copy(
        inside / "report.xml", reports / f"in-{image.rpartition('/')[2].partition(':')[0]}.xml"
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]
