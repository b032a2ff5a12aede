import io
import tarfile
from pathlib import Path

import pytest

from devcluster import images
from devcluster.errors import WrongUse
from devcluster.ignorefile import is_ignored, read_patterns, visible_files
from devcluster.imagebuild import Recipe
from devcluster.ociarchive import write_program_image


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in ("app/main.py", "app/cache/x.pyc", "docs/guide.md", "secret.env", "Dockerfile"):
        path = tmp_path / "context" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "context"


def recipe(context: Path, **changes: object) -> Recipe:
    return Recipe("localhost/app:dev", context / "Dockerfile", context, **changes)


def seen(context: Path, rules: str) -> set[str]:
    file = context.parent / "rules"
    file.write_text(rules)
    return {str(f.relative_to(context)) for f in visible_files(context, read_patterns(file))}


@pytest.mark.parametrize(
    ("rules", "visible"),
    [
        ("", {"app/main.py", "app/cache/x.pyc", "docs/guide.md", "secret.env", "Dockerfile"}),
        ("*\n!app\n", {"app/main.py", "app/cache/x.pyc"}),
        ("*\n!app/main.py\n", {"app/main.py"}),
        ("*\n!app\n**/cache\n", {"app/main.py"}),
        ("# words\n\n**/*.pyc\n*.env\n/docs/\nDockerfile", {"app/main.py"}),
    ],
)
def test_ignore_rules_hide_what_docker_hides(context: Path, rules: str, visible: set[str]) -> None:
    assert seen(context, rules) == visible


def test_a_star_does_not_cross_folders(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("a/*.py")
    assert is_ignored("a/b.py", read_patterns(file))
    assert not is_ignored("a/b/c.py", read_patterns(file))


def test_an_unchanged_recipe_keeps_its_key(context: Path) -> None:
    assert recipe(context).key() == recipe(context).key()


def test_any_input_changes_the_key_of_a_recipe(context: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    keys = {
        recipe(context).key(),
        recipe(context, arguments={"A": "1"}).key(),
        recipe(context, bases={"BASE": "debian"}).key(),
        recipe(context, bases={"BASE": "builder"}).key(),
        recipe(context, target="test").key(),
    }
    (wheels / "torch.whl").touch()
    keys.add(recipe(context, mounts={"/wheels": wheels}).key())
    (wheels / "numpy.whl").touch()
    keys.add(recipe(context, mounts={"/wheels": wheels}).key())
    (context / "app" / "main.py").write_text("changed")
    keys.add(recipe(context).key())
    (context / "app" / "main.py").chmod(0o755)
    keys.add(recipe(context).key())
    assert len(keys) == 9


def test_a_file_that_the_build_cannot_see_does_not_change_the_key(context: Path) -> None:
    (context / "Dockerfile.dockerignore").write_text("docs\n*ignore")
    before = recipe(context).key()
    (context / "docs" / "guide.md").write_text("changed")
    assert recipe(context).key() == before


def test_an_archive_says_what_its_image_is_called(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    for name in ("one.tar", "two.tar"):
        write_program_image(tmp_path / name, program, "localhost/pause:1")
    one, two = (images.from_archive(tmp_path / name) for name in ("one.tar", "two.tar"))
    assert one.reference == "localhost/pause:1"
    assert one.fingerprint == two.fingerprint


def test_a_tar_that_is_no_image_is_refused(tmp_path: Path) -> None:
    tarfile.open(tmp_path / "x.tar", "w").close()
    with pytest.raises(WrongUse, match="no image archive"):
        images.from_archive(tmp_path / "x.tar")


def test_an_unknown_image_is_an_error_that_says_how_to_build_it() -> None:
    with pytest.raises(WrongUse, match="build-image"):
        images.resolve("localhost/never-built:1")


def test_only_blobs_that_the_receiver_lacks_are_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    write_program_image(tmp_path / "image.tar", program, "localhost/pause:1")
    with tarfile.open(tmp_path / "image.tar") as tar:
        tar.extractall(images.layout(), filter="data")
        manifest = images.json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]
    layer = images.json.loads(images.blob(manifest).read_text())["layers"][0]["digest"]
    fed = io.BytesIO()
    images.Image("localhost/pause:1", manifest).feed(fed, {layer})
    with tarfile.open(fileobj=io.BytesIO(fed.getvalue())) as tar:
        names = tar.getnames()
    assert f"blobs/{manifest.replace(':', '/')}" in names
    assert f"blobs/{layer.replace(':', '/')}" not in names
    assert len(names) == 4
