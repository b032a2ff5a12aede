"""Programs that save when they are asked to, each by other means, and one that does not.

They train for as many steps as they are told, slowly enough for somebody to come between.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch

from deepspeed_trainer.loop import Loop

PARSER = argparse.ArgumentParser()
PARSER.add_argument("--local_rank", type=int)
PARSER.add_argument("--how", default="loop")
PARSER.add_argument("--steps", type=int, default=100_000)
PARSER.add_argument("--step-s", type=float, default=0.05)
PARSER.add_argument("--save-every", type=int, default=0)
PARSER.add_argument("--save-s", type=float, default=0.0)
deepspeed.add_config_arguments(PARSER)
FOLDER = Path(os.environ.get("DSJOB_CHECKPOINT_DIR", ""))


class Noise(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(32) + index


def make_engine(config: Any) -> Any:
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
    engine, *_ = deepspeed.initialize(model=net, model_parameters=net.parameters(), config=config)
    return engine


def do_step(engine: Any, batch: Any, args: argparse.Namespace) -> None:
    time.sleep(args.step_s)
    engine.backward(((engine(batch) - batch) ** 2).mean())
    engine.step()


def loop(args: argparse.Namespace) -> None:
    engine = make_engine(args.deepspeed_config)
    run = Loop(engine, Noise())
    for batch in run.batches(steps=args.steps):
        do_step(engine, batch, args)
        if args.save_every and run.step % args.save_every == 0:
            run.save()


def plain(args: argparse.Namespace, *, has_handler: bool = False) -> None:
    """Save every so often; with a handler also after the step in which the signal came."""
    engine = make_engine(args.deepspeed_config)
    came: list[int] = []
    save = torch.save

    def save_slowly(*words: Any, **named: Any) -> None:
        time.sleep(args.save_s)
        save(*words, **named)

    torch.save = save_slowly
    if has_handler:
        signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    _, state = engine.load_checkpoint(str(FOLDER))
    for step in range((state or {}).get("step", 0) + 1, args.steps + 1):
        do_step(engine, torch.randn(4, 32), args)
        if came or (args.save_every and step % args.save_every == 0):
            engine.save_checkpoint(str(FOLDER), f"step{step}", {"step": step})
        if came:
            sys.exit(0)


class Model(torch.nn.Module):
    """As Transformers' Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.inner(x) - x) ** 2).mean()}


def trainer(args: argparse.Namespace) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: PLC0415
    from transformers.trainer_utils import get_last_checkpoint  # noqa: PLC0415

    class Slow(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            time.sleep(args.step_s)

    deepspeed.init_distributed()
    FOLDER.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(FOLDER),
        deepspeed=args.deepspeed_config,
        max_steps=args.steps,
        per_device_train_batch_size=4,
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        learning_rate=1e-3,
        warmup_steps=2,
    )
    data = [{"x": torch.randn(32)} for _ in range(64)]
    made = Trainer(model=Model(), args=arguments, train_dataset=data, callbacks=[Slow()])
    made.train(resume_from_checkpoint=get_last_checkpoint(str(FOLDER)))


def in_worker(config: dict[str, Any]) -> None:
    """The helper as a train function."""
    args = PARSER.parse_args(["--deepspeed_config", os.environ["DSJOB_DEEPSPEED_CONFIG"]])
    args.steps = int(config["steps"])
    global FOLDER  # noqa: PLW0603  known only now
    FOLDER = Path(os.environ["DSJOB_CHECKPOINT_DIR"])
    loop(args)


def main() -> None:
    args = PARSER.parse_args()
    if args.how == "trainer":
        trainer(args)
    elif args.how == "loop":
        loop(args)
    else:
        plain(args, has_handler=args.how == "signal")


if __name__ == "__main__":
    main()
