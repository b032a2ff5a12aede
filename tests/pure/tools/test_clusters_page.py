"""What docs/clusters.md tells a reader to type is what the programs understand and say."""

import re
import shlex
from pathlib import Path

from tools.choice import KINDS, read_choice
from tools.existing import kuberay_install

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
SETTINGS = {"CLUSTER", "KUBECONFIG", "STORAGE_CLASS", "IMAGE_REGISTRY", "PUSH"}


def typed(program: str) -> list[list[str]]:
    """The words after a program's name of each line that a reader is told to type."""
    return [shlex.split(line) for line in re.findall(rf"^\$ {program} (.+)$", PAGE, re.MULTILINE)]


def test_every_call_of_make_has_a_target_and_settings_that_are_read() -> None:
    makefile = (ROOT / "Makefile").read_text()
    calls = typed("make")
    assert len(calls) >= 4
    for target, *settings in calls:
        assert f"\n.PHONY: {target}\n" in makefile
        given = dict(word.split("=", 1) for word in settings)
        assert set(given) <= SETTINGS
        assert read_choice(given).cluster == given["CLUSTER"]


def test_the_command_that_installs_kuberay_is_the_one_that_is_told() -> None:
    assert typed("helm") == [kuberay_install()]


def test_every_cluster_and_setting_is_on_the_page() -> None:
    for word in (*KINDS, *SETTINGS):
        assert f"`{word}" in PAGE, word
