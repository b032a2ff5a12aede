"""The trainer image under a user that it does not know, as OpenShift and others choose one.

Here two ranks train so; that the operator's own pods have a read-only root and no rights is what
every test of this folder runs with.
"""

from pathlib import Path

import pytest

from tests.node.test_trainer_image import PROGRAM, ROOT, install
from tests.support.container import Held, run_held
from tools.images import TRAINER

pytestmark = pytest.mark.usefixtures("own_ground")
UID = 123456
LIMIT_S = 600
TRAINS = "/src/tests/trainer/test_script.py::test_a_script_trains_as_under_the_launcher"
WHO = """
import getpass, os, pwd
try:
    pwd.getpwuid(os.getuid())
    raise SystemExit("the image knows this user: the test shows nothing")
except KeyError:
    pass
try:
    open("/opt/written", "w")
    raise SystemExit("the root can be written to: the test shows nothing")
except OSError as error:
    assert "Read-only" in str(error), error
print(os.getuid(), os.getgid(), getpass.getuser(), os.path.expanduser("~"))
import deepspeed, ray.train.torch, torch
import deepspeed_trainer.driver.run, deepspeed_trainer.rank.worker
"""


@pytest.fixture
def held(tmp_path: Path) -> Held:
    """As the pods are, but for the user; /tmp is the one place to write."""
    inside, site = tmp_path / "inside", tmp_path / "site"
    for folder in (inside, site):
        folder.mkdir()
    inside.chmod(0o777)
    site.chmod(0o755)
    env = {"HOME": "/tmp", "PYTHONPATH": "/site", "DS_ACCELERATOR": "cpu"}  # noqa: S108
    return Held(UID, 0, {"/src": ROOT, "/site": site}, {"/tmp": inside}, env, cwd="/src")  # noqa: S108


def test_the_image_serves_a_user_that_it_does_not_know(held: Held, tmp_path: Path) -> None:
    done = run_held(TRAINER, ["python", "-c", WHO], held, tmp_path, limit_s=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{UID} 0 trainer /tmp" in done.stdout


def test_two_ranks_train_as_an_unknown_user_on_a_read_only_root(held: Held, tmp_path: Path) -> None:
    install(held.lent["/site"], f"pytest=={pytest.__version__}")
    words = ["-p", "no:cacheprovider", "--basetemp=/tmp/tests", TRAINS]
    done = run_held(TRAINER, [*PROGRAM, *words], held, tmp_path, limit_s=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout.splitlines()[-1]
