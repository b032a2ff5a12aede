"""A launcher is known by how it was called, and nothing else is taken for one."""

import pytest

from deepspeed_trainer.hook import find_launcher


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python /opt/venv/bin/deepspeed --num_gpus 2 a.py", "deepspeed --num_gpus 2 a.py"),
        ("python -u /opt/venv/bin/torchrun a.py", "torchrun a.py"),
        ("python -m torch.distributed.run --nnodes 2 a.py", "torchrun --nnodes 2 a.py"),
        ("python -u -X dev -m torch.distributed.launch a.py", "torch.distributed.launch a.py"),
        ("python -m deepspeed.launcher.runner a.py", "deepspeed a.py"),
        ("python -m accelerate.commands.launch a.py", "accelerate launch a.py"),
        ("python /x/bin/accelerate launch a.py", "accelerate launch a.py"),
        ("python /x/bin/accelerate config", None),
        ("python train.py", None),
        ("python deepspeed", None),
        ("python -m pytest torchrun", None),
        ("python -c /bin/torchrun", None),
        ("python", None),
    ],
)
def test_a_launcher_is_found_by_its_call(line: str, found: str | None) -> None:
    assert find_launcher(line.split()) == (found.split() if found else None)
