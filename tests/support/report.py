"""What tests found out, for people: a file below build/, and lines on the terminal."""

import pytest

from tests.support.installed import ROOT


def publish(config: pytest.Config, name: str, text: str) -> None:
    """Write build/NAME, and show it on the terminal although pytest captures output."""
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"{text}\n")
    capture = config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None, "pytest always has its capture manager"
    with capture.global_and_fixture_disabled():
        print(f"\nbuild/{name}:\n{text}")
