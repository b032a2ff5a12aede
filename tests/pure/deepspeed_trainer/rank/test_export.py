"""How an export is cut into files; the files themselves are tried in tests/trainer."""

from pathlib import Path

import pytest

from deepspeed_trainer.rank.export import CannotExport, name_files, write_weights


def test_what_fits_is_one_file() -> None:
    assert name_files({"a": 3, "b": 4}, 7) == dict.fromkeys("ab", "model.safetensors")


def test_what_does_not_fit_is_cut_in_order_and_numbered() -> None:
    one, two, three = (f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3))
    found = name_files({"a": 3, "b": 4, "c": 9, "d": 1}, 7)
    assert found == {"a": one, "b": one, "c": two, "d": three}


@pytest.mark.parametrize("size", [7, 700])
def test_one_tensor_is_never_cut(size: int) -> None:
    assert name_files({"a": size}, 7) == {"a": "model.safetensors"}


def test_a_checkpoint_without_zero_shards_cannot_be_exported(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(CannotExport, match=r"holds no \*_optim_states.pt"):
        write_weights(tmp_path, tmp_path / "out", "float32")
