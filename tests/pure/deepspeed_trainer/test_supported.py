"""What the trainer runs on: each thing that an image may lack is refused by its name."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepspeed_trainer import supported
from deepspeed_trainer.contract import EXIT_IMAGE_UNSUPPORTED

PACKAGE = Path(supported.__file__).parent
NEWEST = {name: f"{newest[0]}.{newest[1]}.3" for name, (_, newest) in supported.RANGES.items()}


def find(found: dict[str, str], *lacking: str, part: str = "") -> str | None:
    return supported.find_fault(found.get, lambda name: name not in lacking, [part] if part else [])


def test_an_image_in_range_has_no_fault() -> None:
    oldest = {name: f"{oldest[0]}.{oldest[1]}" for name, (oldest, _) in supported.RANGES.items()}
    for found in (oldest, NEWEST, {**NEWEST, "torch": f"{NEWEST['torch']}a0+5228986c39.nv25.6"}):
        assert find(found, part="--buckets") is None


@pytest.mark.parametrize("name", supported.RANGES)
def test_a_version_out_of_range_is_named_with_its_range(name: str) -> None:
    (oldest, newest) = supported.RANGES[name]
    for series in ((oldest[0], oldest[1] - 1), (newest[0], newest[1] + 1), (newest[0] + 1, 0)):
        version = f"{series[0]}.{series[1]}.0"
        told = find({**NEWEST, name: version})
        assert told is not None
        assert f"{name} {version}" in told
        assert f"{newest[0]}.{newest[1]}.x" in told


@pytest.mark.parametrize("name", supported.RANGES)
def test_a_package_that_is_not_there_is_named(name: str) -> None:
    told = find({key: version for key, version in NEWEST.items() if key != name})
    assert told is not None
    assert f"no {name}" in told


def test_a_ray_without_its_extras_is_refused() -> None:
    told = find(NEWEST, "aiohttp_cors", "pyarrow")
    assert told is not None
    assert "lacks aiohttp_cors, pyarrow: install ray[default,train]" in told


@pytest.mark.parametrize("part", supported.PARTS)
def test_what_a_part_of_the_spec_needs_is_asked_for_only_then(part: str) -> None:
    module, field, _ = supported.PARTS[part]
    assert find(NEWEST, module) is None
    told = find(NEWEST, module, part=part)
    assert told is not None
    assert f"no {module}, which {field} needs" in told


def test_an_old_python_can_read_why_it_is_refused() -> None:
    source = (PACKAGE / "supported.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.startswith("deepspeed_trainer")}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What the init container leaves: the part of the trainer that starts in any image."""
    package = tmp_path / "site" / "deepspeed_trainer"
    package.mkdir(parents=True)
    shutil.copy(PACKAGE / "enter.sh", package)
    shutil.copytree(PACKAGE / "python_path", package / "python_path")
    (package / "supported.py").write_text(
        "import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['PYTHONPATH'],"
        " os.environ['USER']]))\nsys.exit('--refuse' in sys.argv)\n"
    )
    return package.parent


def enter(site: Path, path: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What KubeRay makes of our words and its own."""
    words = f" . {site}/deepspeed_trainer/enter.sh {' '.join(args)} && ulimit -n 64; echo ray start"
    return subprocess.run(
        [shutil.which("bash") or "bash", "-c", "--", words],
        env={"PATH": path, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_entering_an_image_puts_the_trainer_first_and_keeps_what_the_image_says(site: Path) -> None:
    done = enter(site, os.environ["PATH"], "--buckets", PYTHONPATH="/own", USER="me")
    told, then = done.stdout.splitlines()
    assert json.loads(told) == [["--buckets"], f"{site}:/own", "me"]
    assert then == "ray start"
    alone = enter(site, os.environ["PATH"])
    assert json.loads(alone.stdout.splitlines()[0]) == [[], str(site), "trainer"]


def test_ray_does_not_start_in_an_image_that_is_refused(site: Path) -> None:
    done = enter(site, os.environ["PATH"], "--refuse")
    assert done.returncode == EXIT_IMAGE_UNSUPPORTED
    assert "ray start" not in done.stdout


def test_python3_alone_serves_as_python(site: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    (programs / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    done = enter(site, str(programs))
    assert json.loads(done.stdout.splitlines()[0])[1] == str(site), done.stderr


def test_an_image_without_python_is_told_so(site: Path, tmp_path: Path) -> None:
    done = enter(site, str(tmp_path))
    assert done.returncode == EXIT_IMAGE_UNSUPPORTED
    assert "neither python nor python3" in done.stderr
