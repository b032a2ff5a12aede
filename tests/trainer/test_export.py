"""The last checkpoint's weights as safetensors are those that the training ended with."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepspeed_trainer.contract import EXIT_SUCCEEDED
from deepspeed_trainer.rank import export
from tests.trainer.attempts import Job
from tests.trainer.raycluster import RayCluster


def test_weights_of_all_ranks_are_put_together(cluster: RayCluster, storage: Path) -> None:
    job = Job(cluster, storage, export="Float32")
    outcome = job.run(1, "tiny.py", "--steps=10")
    assert outcome.exit_code == EXIT_SUCCEEDED, outcome.log
    saved = outcome.progress.checkpoint
    assert saved is not None
    assert saved.export is not None, outcome.progress.notice
    folder = storage / saved.export
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    weights = load_file(folder / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert shapes == {
        "0.weight": (64, 32),
        "0.bias": (64,),
        "2.weight": (32, 64),
        "2.bias": (32,),
    }
    # The shards are the ranks' flat parts, one after the other: every weight is in one of them.
    shards = sorted((storage / saved.path).rglob("*_optim_states.pt"))
    flat = torch.cat(
        [
            torch.load(shard, weights_only=False)["optimizer_state_dict"]["fp32_flat_groups"][0]
            for shard in shards
        ]
    )
    assert set(weights["0.weight"].flatten().tolist()) <= set(flat.tolist())


def test_several_files_have_an_index(
    cluster: RayCluster, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = Job(cluster, storage).run(1, "tiny.py", "--steps=5")
    assert outcome.progress.checkpoint is not None, outcome.log
    monkeypatch.setattr(export, "MAX_FILE_BYTES", 5000)
    export.write_weights(storage / outcome.progress.checkpoint.path, tmp_path, "bfloat16")
    index = json.loads((tmp_path / export.INDEX).read_text())
    assert index["metadata"]["total_size"] == 2 * (64 * 32 * 2 + 64 + 32)
    for name, file in index["weight_map"].items():
        assert load_file(tmp_path / file)[name].dtype is torch.bfloat16
    assert set(index["weight_map"].values()) == {
        path.name for path in tmp_path.glob("*.safetensors")
    }
