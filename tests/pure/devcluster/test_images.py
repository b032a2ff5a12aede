import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from devcluster import images, imagestore
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


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> images.Image:
    """A two-layer image, as buildah stores it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = json.dumps({"os": "linux"}).encode()
    name = hashlib.sha256(config).hexdigest()
    entry = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{name}"}
    sizes = [{"size": 30}, {"size": 12}]
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"mediaType": kind, "config": entry, "layers": sizes}
    layers = [
        {"id": "top", "parent": "base", "diff-digest": "sha256:2"},
        {"id": "base", "diff-digest": "sha256:1"},
    ]
    key = base64.b64encode(f"sha256:{name}".encode()).decode()
    files = {
        "overlay-images/images.json": json.dumps([{"id": name, "layer": "top"}]).encode(),
        "overlay-layers/layers.json": json.dumps(layers).encode(),
        f"overlay-images/{name}/manifest": json.dumps(manifest).encode(),
        f"overlay-images/{name}/={key}": config,
    }
    for path, data in files.items():
        (images.storage() / path).parent.mkdir(parents=True, exist_ok=True)
        (images.storage() / path).write_bytes(data)
    return images.Image("localhost/app:1", name)


def test_layers_are_used_where_buildah_has_them_the_lowest_first(image: images.Image) -> None:
    layers = images.unpacked(image).layers
    assert [layer.diff_id for layer in layers] == ["sha256:1", "sha256:2"]
    assert layers[0].folder == images.storage() / "overlay" / "base" / "diff"


def test_an_image_is_as_large_as_its_layers(image: images.Image) -> None:
    assert images.size_bytes(image) == 42


def test_a_chain_is_named_after_all_its_layers() -> None:
    first, second = images.chain_ids(["sha256:1", "sha256:2"])
    assert first == "sha256:1"
    assert second == f"sha256:{hashlib.sha256(b'sha256:1 sha256:2').hexdigest()}"


def test_what_is_imported_names_the_image_and_carries_no_layer(image: images.Image) -> None:
    archive = imagestore.without_layers(image.reference, images.unpacked(image))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json"))
    assert f"blobs/sha256/{image.fingerprint}" in names
    assert len(names) == 4
    notes = index["manifests"][0]["annotations"]
    assert notes == {"io.containerd.image.name": "localhost/app:1"}


def test_an_image_is_found_by_its_name_and_by_what_it_was_made_from(image: images.Image) -> None:
    images.remember(image, "key")
    assert images.built("localhost/app:1") == images.built("localhost/app:1", "key") == image
    assert images.built("localhost/app:1", "another key") is None
    assert images.resolve("localhost/app:1") == image


def test_an_image_that_was_deleted_from_the_storage_is_not_built(image: images.Image) -> None:
    images.remember(image, "key")
    (images.storage() / "overlay-images" / image.fingerprint / "manifest").unlink()
    assert images.built("localhost/app:1") is None
