"""The weights of a committed checkpoint as safetensors: one file or several with an index.

Laid out as Hugging Face's libraries read them.  Runs on a worker once the training has ended,
because its memory holds a model of this size; DeepSpeed's own functions put the shards together.
The files are written beside their place and get it when all are whole.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deepspeed_trainer.checkpoints.files import pod_folder
from deepspeed_trainer.checkpoints.stores import Store, hash_file, open_store
from deepspeed_trainer.contract import MANIFEST_FILE, RunContract, run_path
from deepspeed_trainer.manifest import Manifest

EXPORTS: Final = "exports"
"""Folder of a run's exports, below the run's own."""
MAX_FILE_BYTES: Final = 5_000_000_000
"""As Hugging Face cuts them."""
INDEX: Final = "model.safetensors.index.json"
_SHARDS: Final = "*_optim_states.pt"
_DTYPES: Final = {"Float32": "float32", "Float16": "float16", "BFloat16": "bfloat16"}


class CannotExport(RuntimeError):
    """The checkpoint holds nothing that can be exported, or is damaged."""


def export_checkpoint(contract_json: str, path: str) -> str:
    """Export a checkpoint, given below the storage's root; returns the export's folder there.

    Raises:
        CannotExport: it is damaged, or no ZeRO checkpoint of DeepSpeed's.
        OSError: the storage cannot be read or written.
    """
    contract = RunContract.from_json(contract_json)
    assert contract.storage is not None  # noqa: S101  there is a checkpoint
    assert contract.export is not None  # noqa: S101  the driver asked
    store = open_store(contract.storage)
    target = f"{run_path(contract.job, contract.run)}/{EXPORTS}/{Path(path).name}"
    scratch = pod_folder(contract.submission_id) / EXPORTS
    volume = store.place_of(target)
    beside = volume.with_name(f".{volume.name}") if volume else scratch / "written"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write_weights(_fetch(store, path, scratch / "read"), beside, _DTYPES[contract.export])
        if volume is not None:
            shutil.rmtree(volume, ignore_errors=True)
            beside.rename(volume)
        else:
            _upload(store, beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _fetch(store: Store, path: str, scratch: Path) -> Path:
    """Return a local folder with the checkpoint's files, each of which is what was saved."""
    data = store.read(f"{path}/{MANIFEST_FILE}")
    if data is None:
        raise CannotExport(f"{path}/{MANIFEST_FILE} is gone")
    place = store.place_of(path)
    for file in Manifest.from_json(data).files:
        found = (
            hash_file(place / file.path)
            if place
            else store.fetch(f"{path}/{file.path}", scratch / file.path)
        )
        if found != file.sha256:
            raise CannotExport(f"{path}/{file.path} is not what was saved")
    return place or scratch


def _upload(store: Store, folder: Path, target: str) -> None:
    """The index comes last: who finds it finds all that it names."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == INDEX):
        store.keep(file, f"{target}/{file.name}")


def write_weights(checkpoint: Path, target: Path, dtype: str) -> None:
    """Write the weights of the ZeRO checkpoint that lies somewhere below a folder.

    Raises:
        CannotExport: there is none.
    """
    shard = next(iter(sorted(checkpoint.rglob(_SHARDS))), None)
    if shard is None:
        raise CannotExport(f"{checkpoint.name} holds no {_SHARDS}; ZeRO writes them")
    from deepspeed.utils import zero_to_fp32  # noqa: PLC0415  torch, which no supervisor needs
    from safetensors.torch import save_file  # noqa: PLC0415

    state = zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(
        str(shard.parent.parent), shard.parent.name, lazy_mode=True
    )
    empty = zero_to_fp32.to_torch_tensor(state, return_empty_tensor=True, dtype=dtype)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in empty.items()}
    files = name_files(sizes, MAX_FILE_BYTES)
    for file in dict.fromkeys(files.values()):
        part = {name: state[name] for name, of in files.items() if of == file}
        tensors = zero_to_fp32.to_torch_tensor(part, dtype=dtype)
        save_file(_unshare(tensors), target / file, metadata={"format": "pt"})
    if len(set(files.values())) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": files}
        (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def name_files(sizes: Mapping[str, int], limit_bytes: int) -> dict[str, str]:
    """Return each tensor's file: in their order, none larger than the limit but by one tensor."""
    numbers: dict[str, int] = {}
    number, filled = 1, 0
    for name, size_bytes in sizes.items():
        if filled and filled + size_bytes > limit_bytes:
            number, filled = number + 1, 0
        numbers[name], filled = number, filled + size_bytes
    if number == 1:
        return dict.fromkeys(numbers, "model.safetensors")
    return {name: f"model-{at:05d}-of-{number:05d}.safetensors" for name, at in numbers.items()}


def _unshare(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors of which each has memory of its own; tied weights have not."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        own[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return own
