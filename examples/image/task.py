"""What all examples train: a small BERT that tells whether a gloss defines a word.

In the examples' image this file lies beside the model's folder and that of the texts.
"""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
MODEL = str(HERE / "model")
TEXTS = {split: str(HERE / "data" / f"{split}.jsonl") for split in ("train", "validation")}


def read_texts(split):
    """The rows of a split: sentence1, sentence2, label."""
    return [json.loads(line) for line in Path(TEXTS[split]).read_text().splitlines()]


def make_collate():
    """What makes a batch of rows."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def collate(rows):
        batch = tokenizer(
            [row["sentence1"] for row in rows],
            [row["sentence2"] for row in rows],
            truncation=True,
            padding="longest",
            return_tensors="pt",
        )
        batch["labels"] = torch.LongTensor([row["label"] for row in rows])
        return batch

    return collate


def require_zero3(engine):
    """Fail unless all ranks are one group of ZeRO stage 3, with an Nth of the parameters each."""
    ranks, weights = dist.get_world_size(), list(engine.module.parameters())
    assert engine.zero_optimization_stage() == 3
    assert ranks == int(os.environ["WORLD_SIZE"]) > 1
    total = sum(weight.ds_numel for weight in weights)
    held = sum(weight.ds_tensor.numel() for weight in weights)
    # Each weight is padded to a multiple of the number of ranks.
    assert total / ranks <= held <= total / ranks + len(weights)
    print(f"rank {dist.get_rank()} of {ranks}: ZeRO-3, {held} of {total} parameters", flush=True)
