"""A training loop that says at each load and save what it holds, whatever the number of its ranks.

Its optimizer has two groups of parameters and several parts, its model a buffer and tied weights:
what DeepSpeed mixes up or leaves out when it loads a converted checkpoint, or might.
"""

import argparse
import hashlib
import json
import os
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

from deepspeed_trainer.loop import Loop

PARSER = argparse.ArgumentParser()
PARSER.add_argument("--local_rank", type=int)
PARSER.add_argument("--until", type=int, required=True)
PARSER.add_argument("--frozen", action="store_true", help="freeze a layer, as LoRA does")
PARSER.add_argument("--tag", help="the same tag for all saves")
deepspeed.add_config_arguments(PARSER)


class Numbers(torch.utils.data.Dataset):
    """Samples that follow from their index."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.sin(torch.arange(32.0) * (index + 1))


class Net(torch.nn.Module):
    """A small net whose output is its loss, and a count of its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(32, 32)
        self.last = torch.nn.Linear(32, 32)
        self.last.weight = self.first.weight
        self.inner = torch.nn.Linear(32, 63)
        self.norm = torch.nn.LayerNorm(63)
        self.outer = torch.nn.Linear(63, 32)
        self.register_buffer("forwards", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        hidden = self.norm(self.inner(self.first(x))).relu()
        return ((self.last(self.outer(hidden)) - x) ** 2).mean()


def make_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Return weights with decay, and biases and norms without, as most programs have them."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]


def describe(engine: Any) -> dict[str, Any]:
    """Return everything that a step depends on; all ranks call it."""
    digest = hashlib.sha256()
    for _, weight in sorted(engine.module.named_parameters()):
        for state in (None, "exp_avg", "exp_avg_sq"):
            if not weight.requires_grad:
                continue
            whole = (
                safe_get_full_fp32_param(weight)
                if state is None
                else safe_get_full_optimizer_state(weight, state)
            )
            digest.update(whole.float().contiguous().cpu().numpy().tobytes())
    inner = engine.optimizer.optimizer
    return {
        "states": digest.hexdigest(),
        "groups": [[group["lr"], group["weight_decay"]] for group in inner.param_groups],
        "counters": sorted({float(state["step"]) for state in inner.state.values()}),
        "forwards": float(engine.module.forwards),
        "schedule": engine.lr_scheduler.state_dict(),
        "global_steps": engine.global_steps,
    }


def train(config: dict[str, Any]) -> None:
    """Train from wherever the run is to step `until`; also the function of a job."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = Net()
    if config.get("frozen"):
        model.inner.requires_grad_(False)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=make_groups(model),
        config=os.environ["DSJOB_DEEPSPEED_CONFIG"],
    )
    run = Loop(engine, Numbers(), seed=3)
    mine = run.load()
    before = describe(engine) if run.step else None
    for micro, batch in enumerate(run.batches(steps=config["until"]), start=1):
        loss = engine(batch)
        engine.backward(loss)
        engine.step()
        if micro % engine.gradient_accumulation_steps() == 0 and run.step % 4 == 0:
            run.save({"mine": run.step}, config.get("tag"))
    said = {"loaded": before, "mine": mine.get("mine"), "saved": describe(engine)}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    train(vars(PARSER.parse_args()))
