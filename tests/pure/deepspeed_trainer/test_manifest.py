"""A manifest names files below its checkpoint and nothing else."""

import json

import pytest

from deepspeed_trainer.batching import Batch
from deepspeed_trainer.contract import ContractError, Manifest
from deepspeed_trainer.manifest import NOT_LOOKED_AT
from tests.pure.deepspeed_trainer.makers import a_manifest


def test_a_manifest_survives_the_wire() -> None:
    for given in (a_manifest(), a_manifest(batch=Batch(8, 2, 2), unresizable="", universal=True)):
        assert Manifest.from_json(given.to_json()) == given


def test_a_manifest_of_an_older_trainer_says_nothing_about_other_sizes() -> None:
    plain = json.loads(a_manifest(unresizable="").to_json())
    for name in ("batch", "unresizable", "universal"):
        del plain[name]
    read = Manifest.from_json(json.dumps(plain))
    assert (read.batch, read.unresizable, read.universal) == (None, NOT_LOOKED_AT, False)


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
