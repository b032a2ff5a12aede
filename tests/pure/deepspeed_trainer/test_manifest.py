"""A manifest names files below its checkpoint and nothing else."""

import json

import pytest

from deepspeed_trainer.contract import ContractError, Manifest
from tests.pure.deepspeed_trainer.makers import a_manifest


def test_a_manifest_survives_the_wire() -> None:
    given = a_manifest()
    assert Manifest.from_json(given.to_json()) == given


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/file", "a/../../b", ""])
def test_a_path_that_leaves_the_checkpoint_is_refused(path: str) -> None:
    plain = json.loads(a_manifest().to_json())
    plain["files"][0]["path"] = path
    with pytest.raises(ContractError, match=r"manifest\.files\[0\]\.path"):
        Manifest.from_json(json.dumps(plain))


def test_a_torn_manifest_is_refused() -> None:
    text = a_manifest().to_json()
    with pytest.raises(ContractError, match="manifest"):
        Manifest.from_json(text[: len(text) // 2])
