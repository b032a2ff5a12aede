"""A program that notes when its first line ran, and when the first line of its training ran.

`first_lines.py FOLDER NAME` writes FOLDER/NAME.program and FOLDER/NAME.train, each with the time in
seconds since the epoch. It runs in the trainer image, as a Ray job's entrypoint or as a driver.
"""

import sys
import time
from pathlib import Path

BEGAN = time.time()


def note(folder: str, name: str, at: float) -> None:
    """Write a time beside its place and rename, so that nobody reads half of it."""
    beside = Path(folder) / f"{name}.partial"
    beside.write_text(repr(at))
    beside.rename(Path(folder) / name)


def train(config: dict[str, str]) -> None:
    """What a user's training function does first; rank 0 notes when."""
    began = time.time()
    from ray.train import get_context

    if get_context().get_world_rank() == 0:
        note(config["folder"], f"{config['name']}.train", began)


def main() -> None:
    """Train on two workers."""
    folder, name = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    note(folder, f"{name}.program", BEGAN)
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        train,
        train_loop_config={"folder": folder, "name": name},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name=name, storage_path=folder),
    ).fit()


if __name__ == "__main__":
    main()
