"""`python -m deepspeed_trainer.rank.universal IN OUT WORKERS`: DeepSpeed's converter, looked after.

Runs in a process of its own, because it loads whole shards.  The private parts of DeepSpeed's
universal checkpoints that are needed to write one are touched here alone; tests/trainer runs them
against the pinned version.  What is needed to load one is in `hooks.universal`.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from deepspeed_trainer.hooks.universal import CONVERTED_DIR, OPTIMIZER_FILE

STATES: Final = ("fp32", "exp_avg", "exp_avg_sq")
"""What the converter knows of an optimizer: Adam's."""


def convert(source: Path, target: Path, workers: int) -> None:
    """Convert the shards of a tag's folder into `target`, which is not there yet.

    Raises:
        ValueError: what came out is not all of what went in.
    """
    from deepspeed.checkpoint import ds_to_universal  # noqa: PLC0415  heavy, and not where it is read

    target.mkdir(parents=True)
    ds_to_universal.main(
        Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=workers,
            num_merge_workers=workers,
            keep_temp_folder=False,
            strict=True,
            # Below ZeRO-3 it asks for a mark that only Megatron's programs leave.
            inject_missing_state=True,
        )
    )
    (target.parent / "latest_universal").unlink(missing_ok=True)
    _slim(target / OPTIMIZER_FILE)
    _require_whole(source, target)


def _slim(path: Path) -> None:
    """Take rank 0's shard out of the file that every rank will read; only its frame is asked for.

    DeepSpeed's converter copies it whole: gigabytes for each rank to load and throw away.
    """
    import torch  # noqa: PLC0415  see above

    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    state.pop("fp32_flat_groups", None)
    inner = state.get("optimizer_state_dict")
    if isinstance(inner, dict):
        inner["state"] = {
            number: {name: value for name, value in one.items() if name not in STATES}
            for number, one in inner["state"].items()
        }
    torch.save(state, path)


def _require_whole(source: Path, target: Path) -> None:
    """Compare every parameter's shape, as the model's states name it, with what was written."""
    import torch  # noqa: PLC0415  see above

    model_states = min(source.glob("*model_states.pt"))
    named = torch.load(model_states, map_location="cpu", weights_only=False)["param_shapes"]
    groups = [named] if isinstance(named, dict) else named
    shapes = {name: shape for group in groups for name, shape in group.items()}
    if not shapes:
        raise ValueError(f"{model_states.name} names no parameters")
    for name, shape in shapes.items():
        for state in STATES:
            path = target / CONVERTED_DIR / name / f"{state}.pt"
            found = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
            values = found["param"] if isinstance(found, dict) else found
            if values.numel() != shape.numel():
                raise ValueError(f"{path} holds {values.numel()} values, {name} has {shape}")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
