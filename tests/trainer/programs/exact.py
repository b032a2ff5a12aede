"""A training loop with the helper, dropout and accumulation; it may be told where to die.

`--kill RANK:PHASE:STEP` ends that rank by SIGKILL in the forward of a step, between two of its
micro-batches, in the middle of the save after it, or (with its supervisor) while that is hashed.
At its end every rank prints a hash of its shard.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch

from deepspeed_trainer.loop import Loop

PARSER = argparse.ArgumentParser()
PARSER.add_argument("--local_rank", type=int)
PARSER.add_argument("--steps", type=int, default=9)
PARSER.add_argument("--save-every", type=int, default=2)
PARSER.add_argument("--seed", type=int, default=7)
PARSER.add_argument("--workers", type=int, default=0)
PARSER.add_argument("--folder", help="default: DSJOB_CHECKPOINT_DIR")
PARSER.add_argument("--kill", default="-1:never:0")
PARSER.add_argument("--model", type=Path, help="folder of a BERT; default: a small net")
PARSER.add_argument("--dropout", type=float, default=0.1, help="of the BERT")
PARSER.add_argument("--text", type=Path, help="folder of WordNet's files")
deepspeed.add_config_arguments(PARSER)


class Noise(torch.utils.data.Dataset):
    """Samples that are random each time, as augmented ones are."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(32) + index


class Net(torch.nn.Module):
    """A small net with dropout whose output is its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(32, 64)
        self.drop = torch.nn.Dropout(0.3)
        self.outer = torch.nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((self.outer(self.drop(self.inner(x).relu())) - x) ** 2).mean()


def load_parts(args: argparse.Namespace) -> tuple[torch.nn.Module, Any, str]:
    """Return the model, its data, and the name of the module that a forward dies in."""
    if args.model is None:
        data = Noise()
        loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=args.workers)
        return Net(), loader if args.workers else data, "drop"
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "quickstart"))
    from pairs import read_senses, split_pairs  # noqa: PLC0415  only for the real model
    from transformers import (  # noqa: PLC0415
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    pairs = split_pairs(read_senses(args.text), 64, 0).train
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(chosen: list[Any]) -> dict[str, torch.Tensor]:
        batch = tokenizer(
            [pair.word for pair in chosen],
            [pair.gloss for pair in chosen],
            truncation=True, max_length=32, padding="longest", return_tensors="pt",
        )  # fmt: skip
        return {**batch, "labels": torch.tensor([pair.label for pair in chosen])}

    model = AutoModelForSequenceClassification.from_pretrained(
        args.model,
        num_labels=2,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
    )
    loader = torch.utils.data.DataLoader(
        pairs, batch_size=4, collate_fn=encode, num_workers=args.workers
    )
    return model, loader, "bert.encoder.layer.3"


class Death:
    """Ends this process at the place that it was told."""

    def __init__(self, told: str, rank: int) -> None:
        victim, self._phase, step = told.split(":")
        self._step = int(step)
        self._is_victim = int(victim) == rank

    def strike(self, phase: str, step: int) -> None:
        if self._is_victim and phase == self._phase and step == self._step:
            if phase == "hash":
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def shard_hash(engine: Any) -> str:
    """Return a hash of everything that this rank holds of weights and optimizer."""
    digest = hashlib.sha256()
    for tensor in tensors_of(engine):
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def tensors_of(engine: Any) -> Iterator[torch.Tensor]:
    for parameter in engine.module.parameters():
        yield parameter.ds_tensor
    for flat in engine.optimizer.fp32_partitioned_groups_flat:
        yield flat
        state = engine.optimizer.optimizer.state[flat]
        yield from (state[name] for name in ("exp_avg", "exp_avg_sq"))


def main() -> None:
    args = PARSER.parse_args()
    # Outside a job nobody keeps DeepSpeed from compiling an op that ZeRO never calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    model, data, inner = load_parts(args)
    engine, *_ = deepspeed.initialize(args=args, model=model, model_parameters=model.parameters())
    death = Death(args.kill, engine.global_rank)
    run = Loop(engine, data, seed=args.seed, folder=args.folder)
    engine.module.get_submodule(inner).register_forward_pre_hook(
        lambda *_: death.strike("forward", run.step + 1)
    )
    save = engine.checkpoint_engine.save

    def save_or_die(*args: Any, **kwargs: Any) -> Any:
        result = save(*args, **kwargs)
        death.strike("save", run.step)  # the first of two files is there
        return result

    engine.checkpoint_engine.save = save_or_die
    for micro, batch in enumerate(run.batches(steps=args.steps), start=1):
        loss = engine(**batch).loss if isinstance(batch, dict) else engine(batch)
        engine.backward(loss)
        engine.step()
        if micro % engine.gradient_accumulation_steps():
            death.strike("accumulation", run.step + 1)
        elif run.step % args.save_every == 0 or run.step == args.steps:
            run.save()
            death.strike("hash", run.step)
    print(json.dumps({"step": run.step, "shard": shard_hash(engine)}), flush=True)


main()
