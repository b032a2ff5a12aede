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

from devcluster import build, imagebuild, s3
from devcluster.steps import Shell, run_steps
from tools.images import EXAMPLES, FOR_EXAMPLES, TRAINER, image_steps

pytestmark = pytest.mark.usefixtures("own_ground")
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("/opt/trainer/bin/python", "-m", "pytest", "-c", "/src/tests/trainer/pytest.ini")
ACCELERATE = "accelerate==1.15.0"
LIMIT_S = 1800
SUBJECTS = sorted(file.name for file in (ROOT / "tests" / "trainer").glob("test_*.py"))
WITH_FRAMEWORKS = ("test_examples.py", "test_frameworks.py", "test_preemption.py")
"""Their programs import Transformers, Accelerate or Lightning, which the examples' image has."""


@pytest.fixture(scope="module", autouse=True)
def s3_server(own_ground: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The program of a real S3 server, for the tests that use one."""
    toolchain = [step for step in build.control_plane_steps() if step.name == "go toolchain"]
    run_steps([*toolchain, s3.build_step()], logs=tmp_path_factory.mktemp("s3"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest, to be put beside what an image holds."""
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    install(folder, f"pytest=={pytest.__version__}", "huggingface_hub", "safetensors")
    install(folder, "--no-deps", ACCELERATE)  # the image has its torch
    return folder


@pytest.fixture(scope="module")
def site_of_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the examples' image, which holds all but pytest."""
    folder = tmp_path_factory.mktemp("site-of-examples")
    folder.chmod(0o755)
    install(folder, f"pytest=={pytest.__version__}")
    return folder


def install(folder: Path, *packages: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    subprocess.run([*pip, *packages], check=True)


@pytest.mark.seed("S4", "DeepSpeed's ops built in advance")
@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s not in WITH_FRAMEWORKS])
def test_the_trainers_own_tests_pass_in_its_image(site: Path, tmp_path: Path, subject: str) -> None:
    run_inside(TRAINER, subject, site, tmp_path)


@pytest.mark.parametrize("subject", WITH_FRAMEWORKS)
def test_the_examples_and_frameworks_pass_in_the_examples_image(
    site_of_examples: Path, tmp_path: Path, subject: str
) -> None:
    run_steps(image_steps(FOR_EXAMPLES), logs=tmp_path)
    run_inside(EXAMPLES, subject, site_of_examples, tmp_path)


def run_inside(image: str, subject: str, site: Path, tmp_path: Path) -> None:
    """Run tests in a container of an image; their report goes to build/reports."""
    inside = tmp_path / "inside"
    inside.mkdir()
    inside.chmod(0o777)
    lent = [f"--volume={ROOT}:/src:ro", f"--volume={site}:/site:ro"]
    lent += [f"--volume={inside}:/tmp:rw", "--volume=/dev/shm:/dev/shm:rw"]
    lent += [f"--volume={s3.VERSITYGW.folder}:/s3:ro", "--env=VERSITYGW=/s3/versitygw"]
    # Ray looks up its host's name, and without network only this one has an address.
    place = ["--isolation", "oci", "--runtime", "/usr/sbin/runc"]
    place += ["--network", "none", "--hostname", "localhost"]
    as_user = ["--user", "1000", "--workingdir", "/src", "--env", "PYTHONPATH=/site"]
    words = ["-p", "no:cacheprovider", "--basetemp=/tmp/tests", f"/src/tests/trainer/{subject}"]
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
    shutil.copy(inside / "report.xml", reports / f"in-image-{Path(subject).stem}.xml")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]
