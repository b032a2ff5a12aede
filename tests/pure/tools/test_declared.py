"""Every program that set-up and the dev cluster call is one that they declare.

Read from the source: a list or tuple whose first word is the name of a program that this machine
has. That misses a program that is not installed here, but then its caller could not have been
tried here either; `make test-cold` runs it all where nothing undeclared is installed.
"""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

from devcluster import versions
from tools import test_cold

ROOT = Path(__file__).resolve().parents[3]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DECLARED = {*versions.NODE_PACKAGES, *versions.IMAGE_PACKAGES, *test_cold.GIVEN}
EVERY_DEBIAN_HAS = {"apt", "dpkg", "dash", "coreutils", "util-linux", "mount"}
BUILT_OR_FETCHED = {"kubectl", "helm", "go"}
USED_WHERE_IT_IS = {"docker", "kind"}
PACKAGE_OF = {
    "apt-get": "apt",
    "ctr": "containerd",
    "dpkg-deb": "dpkg",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sh": "dash",
    "tc": "iproute2",
    "umount": "mount",
    "unshare": "util-linux",
}
WORDS = {"route"}  # first words that name no program: `route` is a word of `ip`


def first_words(source: str) -> Iterator[str]:
    """The first words of all lists and tuples that start with a text."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.List(elts=[ast.Constant(value=str(word)), *_]):
                yield word
            case ast.Tuple(elts=[ast.Constant(value=str(word)), *_]):
                yield word


def programs() -> set[str]:
    """The programs that are called by name."""
    files = [*(ROOT / "devcluster").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    words = {word for file in files for word in first_words(file.read_text())}
    return {word for word in words - WORDS if "/" not in word and shutil.which(word, path=PATH)}


def test_every_program_is_declared() -> None:
    known = DECLARED | EVERY_DEBIAN_HAS | BUILT_OR_FETCHED | USED_WHERE_IT_IS
    undeclared = {name for name in programs() if PACKAGE_OF.get(name, name) not in known}
    assert not undeclared, "name the Debian package in devcluster/versions.py"


def test_a_program_that_nobody_declared_is_seen() -> None:
    assert list(first_words('shell.run(["perl", "-e", "1"])')) == ["perl"]
    assert "perl" not in DECLARED | EVERY_DEBIAN_HAS | BUILT_OR_FETCHED
